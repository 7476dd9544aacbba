"""Finds out which caller a credential names: a token of `server.py token create`, a JWT, or a ticket for one stream.

All that is needed is in memory, and a request costs one search of a dict. `access.refresh` replaces it about once a
second.

Open or closed: without a token and without `--jwks`, the server is open to anyone. From the first token on it is
closed, also when all tokens are revoked or have expired. `--allow-anonymous` keeps it open to callers without
a credential.

Threads: event loop only. Nothing waits.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import protocol
from balance.access.tickets import Tickets
from balance.access.tokens import PREFIX, digest, is_token
from balance.aio.addresses import to_address
from balance.auth import ANONYMOUS, ANYONE, PERMISSIONS, Caller, Operation, Role, authorize
from balance.rate_limit import RateLimit
from balance.storage.token_store import StoredToken

if TYPE_CHECKING:  # PyJWT and its cryptography take a tenth of a second, which a server without a JWKS saves
    from balance.access.jwt import JwtVerifier, Keys

SCHEME = "bearer"
JWTS_CACHED = 10_000
REVOKED, EXPIRED, UNKNOWN = "is revoked", "has expired", "is not known"
KEY_REMOVED = "is signed by a key that is no longer trusted"


class Token:
    """A token in memory."""

    __slots__ = ("caller", "is_revoked", "sha256", "was_used")

    def __init__(self, stored: StoredToken) -> None:
        self.caller = Caller(Role(stored.role), stored.name, stored.id, stored.expires_at)
        self.sha256 = stored.sha256
        self.is_revoked = stored.is_revoked
        self.was_used = False
        """Whether it was used since `take_used`."""


class Authenticator:
    """Which callers the credentials name."""

    def __init__(self, *, allow_anonymous: bool, jwt: JwtVerifier | None, failures: RateLimit) -> None:
        """Know no token yet: until the first `replace_tokens`, requests that need one get `unavailable`.

        `failures` limits the credentials of an address that are not valid.
        """
        self._failures = failures
        self._allow_anonymous = allow_anonymous
        self.jwt = jwt
        self.tickets = Tickets()
        self.anonymous = ANYONE if allow_anonymous else ANONYMOUS
        """The caller of a request without a credential."""
        self.ignores_credentials = False
        """Whether there have been no credentials, so that every caller is `anonymous`."""
        self._is_ready = False
        self._has_had_tokens = False
        self._by_digest: dict[bytes, Token] = {}
        self._by_id: dict[str, Token] = {}
        self._jwt_callers: dict[bytes, Caller] = {}

    @property
    def is_closed(self) -> bool:
        """Whether a credential is needed for all but the documents."""
        return self.anonymous is ANONYMOUS

    @property
    def has_credentials(self) -> bool:
        """Whether there has been a token since the start, or there is a JWKS."""
        return self._has_had_tokens or self.jwt is not None

    # State

    def replace_tokens(self, stored: Iterable[StoredToken]) -> None:
        """Know these tokens, and no others, from now on."""
        before = self._by_id
        self._by_id = {one.id: Token(one) for one in stored}
        for id_, token in self._by_id.items():
            token.was_used = id_ in before and before[id_].was_used
        self._by_digest = {token.sha256: token for token in self._by_id.values()}
        self._is_ready = True
        self._has_had_tokens = self._has_had_tokens or bool(self._by_id)  # to delete all rows opens nothing
        self.ignores_credentials = not self.has_credentials
        self.anonymous = ANYONE if self._allow_anonymous or self.ignores_credentials else ANONYMOUS

    def replace_keys(self, keys: Keys) -> None:
        """Verify JWTs by these keys from now on."""
        assert self.jwt is not None
        self.jwt.use_keys(keys)
        self._jwt_callers.clear()

    def take_used(self) -> list[str]:
        """Return the ids of the tokens that were used since the last call."""
        used = [id_ for id_, token in self._by_id.items() if token.was_used]
        for id_ in used:
            self._by_id[id_].was_used = False
        return used

    # Callers

    def authenticate(self, credential: str | None, ip: str) -> Caller:
        """Return the caller that a credential names; None is a caller without one, at the IP address `ip`.

        Raises Unauthorized, Forbidden for a JWT without a scope, Unavailable while it cannot be checked, and
        RateLimited, without checking it, after too many from this address that were not valid. One that was valid
        before is not affected: an address may be that of a proxy with many clients.
        """
        if credential is None or self.ignores_credentials:
            return self.anonymous
        key = digest(credential)
        token = self._by_digest.get(key)
        if token is None:
            with self._counting_failures(ip):
                return self._authenticate_jwt(credential, key)
        if not hmac.compare_digest(token.sha256, key) or token.is_revoked or _has_expired(token.caller):
            raise protocol.Unauthorized(REVOKED if token.is_revoked else EXPIRED, "token")
        token.was_used = True
        return token.caller

    def _authenticate_jwt(self, credential: str, key: bytes) -> Caller:
        if credential.startswith(PREFIX) or self.jwt is None:
            if not self._is_ready:
                raise protocol.Unavailable("the tokens are not available yet")
            is_mistyped = credential.startswith(PREFIX) and not is_token(credential)
            raise protocol.Unauthorized("is not complete, or mistyped" if is_mistyped else UNKNOWN, "token")
        caller = self._jwt_callers.get(key)
        if caller is None:
            caller = self.jwt.verify(credential)
            if len(self._jwt_callers) >= JWTS_CACHED:
                self._jwt_callers.clear()
            self._jwt_callers[key] = caller
        elif _has_expired(caller):
            raise protocol.Unauthorized(EXPIRED, "token")
        return caller

    @contextmanager
    def _counting_failures(self, ip: str) -> Iterator[None]:
        """Count a credential that is not valid. Raises RateLimited after too many."""
        if not self._failures.is_on:
            yield
            return
        address = to_address(ip)
        self._failures.check(address)
        try:
            yield
        except protocol.Unauthorized:
            self._failures.acquire(address)
            raise

    def use_ticket(self, ticket: str, ip: str) -> Caller:
        """Return the caller for which a ticket was issued, once. Raises Unauthorized and RateLimited."""
        with self._counting_failures(ip):
            return self.tickets.use(ticket)

    def admit(self, credential: str | None, operation: Operation, ip: str) -> Caller:
        """Return the caller that a credential names, if it may do `operation`; `ip` is its address.

        Raises Unauthorized, Forbidden, RateLimited, and Unavailable while it is not known yet whether a credential is
        needed.
        """
        caller = self.anonymous if self.ignores_credentials else self.authenticate(credential, ip)
        if caller is ANONYMOUS and not self._is_ready and operation not in PERMISSIONS[Role.ANONYMOUS]:
            raise protocol.Unavailable("the tokens are not available yet")
        authorize(caller.role, operation)
        return caller

    def admit_again(self, caller: Caller, operation: Operation | None) -> None:
        """Check that a caller who was admitted may still do `operation`, None if each part of it asks again.

        Raises Unauthorized.
        """
        if caller.has_credential:
            if (fault := self.fault(caller)) is not None:
                raise fault
        elif operation is not None:
            authorize(self.anonymous.role, operation)

    def fault(self, caller: Caller) -> protocol.Unauthorized | None:
        """Return why what was opened for a caller must end; None if it need not.

        Its credential is revoked or has expired, or the key that verified it was removed.
        """
        if not caller.has_credential:
            return None if caller is ANYONE and not self.is_closed else protocol.Unauthorized()
        if caller.token_id:
            token = self._by_id.get(caller.token_id)
            if token is None or token.is_revoked:
                return protocol.Unauthorized(REVOKED, "token")
            token.was_used = True
            caller = token.caller  # its expiry may have changed
        if caller.key_identity and self.jwt is not None and not self.jwt.trusts(caller.key_identity):
            return protocol.Unauthorized(KEY_REMOVED, "token")
        return protocol.Unauthorized(EXPIRED, "token") if _has_expired(caller) else None

    def is_current(self, caller: Caller) -> bool:
        """Return whether the credential of a caller still counts."""
        return self.fault(caller) is None


def read_bearer(header: str | None) -> str | None:
    """Return the credential of the header `Authorization`; None for another scheme, which is not for this server.

    RFC 6750, section 2.1; RFC 9110, section 11.1: the name of a scheme is case-insensitive.
    """
    if header is None:
        return None
    scheme, _, credential = header.partition(" ")
    return credential.strip() if scheme.lower() == SCHEME else None


def _has_expired(caller: Caller) -> bool:
    return caller.expires_at is not None and time.time() >= caller.expires_at
