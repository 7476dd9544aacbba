"""What each role may do, and the error of what it may not."""

from __future__ import annotations

import pytest

import protocol
from balance.auth import Operation, Role, authorize


@pytest.mark.parametrize("operation", Operation)
def test_anyone_may_do_everything(operation: Operation) -> None:
    authorize(Role.ANYONE, operation)


@pytest.mark.parametrize("operation", Operation)
def test_what_a_role_is_not_permitted_is_forbidden(monkeypatch: pytest.MonkeyPatch, operation: Operation) -> None:
    others = frozenset(Operation) - {operation}
    monkeypatch.setattr("balance.auth.PERMISSIONS", {Role.ANYONE: others})
    with pytest.raises(protocol.Forbidden, match=f"^this role may not {operation}$"):
        authorize(Role.ANYONE, operation)
    for other in others:
        authorize(Role.ANYONE, other)
