"""Access control: the one function that every entry of the service asks before it saves or returns anything.

An entry is each REST operation, the documents and pages, the CONNECT packet of Socket.IO, and each event. An event asks
when its packet has been decoded, for its name and the `id` of its update, which the error repeats, are in it.
`balance.access` finds out which caller a credential names.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

import protocol


class Operation(StrEnum):
    """What a caller can ask for; the value completes the sentence "this role may not ..."."""

    SAVE = "save snapshots"
    READ = "read snapshots"
    WATCH = "watch snapshots"
    PING = "ping"
    READ_DOCUMENTS = "read documents"
    READ_METRICS = "read metrics"
    IMPORT = "import snapshots"
    READ_CONNECTIONS = "read connections"


class Role(StrEnum):
    """What a caller is to the service; the permissions depend on nothing else."""

    READER = "reader"
    WRITER = "writer"
    ADMIN = "admin"
    ANYONE = "anyone"
    """A caller of a server that is open to anyone."""
    ANONYMOUS = "anonymous"
    """A caller without credentials, where they are needed."""


TOKEN_ROLES = (Role.READER, Role.WRITER, Role.ADMIN)
"""The roles that a credential can give, each with all that the one before it may do."""

_PUBLIC = frozenset({Operation.READ_DOCUMENTS})
_READER = _PUBLIC | {Operation.READ, Operation.WATCH, Operation.PING}

PERMISSIONS: Mapping[Role, frozenset[Operation]] = {
    Role.ANONYMOUS: _PUBLIC,
    Role.READER: _READER,
    Role.WRITER: _READER | {Operation.SAVE},
    Role.ADMIN: frozenset(Operation),
    Role.ANYONE: frozenset(Operation),
}
"""The operations that each role is permitted."""


SCOPES: Mapping[Role, str] = {
    Role.READER: "balance:read",
    Role.WRITER: "balance:write",
    Role.ADMIN: "balance:admin",
}
"""The scope by which a JWT gives a role."""

SCOPE_NEEDED: Mapping[Operation, str] = {
    operation: SCOPES[role] for role in reversed(TOKEN_ROLES) for operation in PERMISSIONS[role]
}
"""The scope of the smallest role that is permitted an operation."""


class Caller(NamedTuple):
    """A caller whose credential was checked; it holds no secret."""

    role: Role
    name: str = ""
    """The name of the token, or the subject of the JWT; empty without a credential."""
    token_id: str = ""
    """The id of the token; empty without one."""
    expires_at: float | None = None
    """When the credential expires, in seconds since 1970; None if it does not."""
    key_identity: str = ""
    """Which key has verified its JWT; empty without one."""

    @property
    def credential_id(self) -> str:
        """What distinguishes its credential from all others; empty without one."""
        return self.token_id or (f"jwt:{self.name}" if self.has_credential else "")

    @property
    def has_credential(self) -> bool:
        """Whether a credential names this caller, so that no web page can act in its name without knowing it."""
        return self.role in TOKEN_ROLES


ANYONE, ANONYMOUS = Caller(Role.ANYONE), Caller(Role.ANONYMOUS)


def authorize(role: Role, operation: Operation) -> None:
    """Return if `role` may do `operation`. Raises Forbidden otherwise, or Unauthorized if a credential is needed."""
    if operation not in PERMISSIONS[role]:
        if role is Role.ANONYMOUS:
            raise protocol.Unauthorized
        raise protocol.Forbidden(f"this role may not {operation}", scope=SCOPE_NEEDED[operation])
