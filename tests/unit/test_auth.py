"""What each role may do, and the error of what it may not."""

from __future__ import annotations

import pytest

import protocol
from balance.auth import PERMISSIONS, TOKEN_ROLES, Operation, Role, authorize


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


@pytest.mark.parametrize(
    ("error", "challenge"),
    [
        (protocol.Unauthorized(), 'Bearer realm="balance"'),
        (
            protocol.Unauthorized("is revoked", "token"),
            'Bearer realm="balance", error="invalid_token", error_description="token: is revoked"',
        ),
        (protocol.Forbidden("pages of this origin may not call", "Origin"), None),
        (protocol.InvalidPayload("is not an object", "payload"), None),
    ],
)
def test_a_challenge_has_the_form_of_rfc_6750(error: protocol.ServiceError, challenge: str | None) -> None:
    assert error.challenge == challenge


@pytest.mark.parametrize("role", TOKEN_ROLES)
def test_a_refusal_of_a_role_names_the_scope_of_the_smallest_role_that_would_do(role: Role) -> None:
    scopes = {
        Operation.SAVE: "balance:write",
        Operation.READ_METRICS: "balance:admin",
        Operation.IMPORT: "balance:admin",
        Operation.READ_CONNECTIONS: "balance:admin",
    }
    for operation in set(Operation) - PERMISSIONS[role]:
        with pytest.raises(protocol.Forbidden) as refused:
            authorize(role, operation)
        assert refused.value.challenge == (
            f'Bearer realm="balance", error="insufficient_scope", error_description="this role may not {operation}", '
            f'scope="{scopes[operation]}"'
        )
