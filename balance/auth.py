"""Access control: the one function that every entry of the service asks before it saves or returns anything.

An entry is each REST operation, the documents and pages, the CONNECT packet of Socket.IO, and each event. An event asks
when its packet has been decoded, for its name and the `id` of its update, which the error repeats, are in it.
There are no tokens yet, so each caller has the role ANYONE, which may do everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import protocol


class Operation(StrEnum):
    """What a caller can ask for; the value completes the sentence "this role may not ..."."""

    SAVE = "save snapshots"
    READ = "read snapshots"
    WATCH = "watch snapshots"
    PING = "ping"
    READ_DOCUMENTS = "read documents"
    READ_METRICS = "read metrics"


class Role(StrEnum):
    """What a caller is to the service; the permissions depend on nothing else."""

    ANYONE = "anyone"


PERMISSIONS: Mapping[Role, frozenset[Operation]] = {Role.ANYONE: frozenset(Operation)}
"""The operations that each role is permitted."""


def authorize(role: Role, operation: Operation) -> None:
    """Return if `role` may do `operation`. Raises Forbidden otherwise."""
    if operation not in PERMISSIONS[role]:
        raise protocol.Forbidden(f"this role may not {operation}")
