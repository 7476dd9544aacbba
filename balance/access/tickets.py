"""Tickets: each opens one event stream, within a minute.

A browser's EventSource cannot send a header, so that a page fetches a ticket with its token and puts the ticket in the
URL. A URL may be logged by a proxy; a ticket that was used or is a minute old opens nothing.

Threads: event loop only. Tickets are those of one process: a balancer must send both requests to the same one.
"""

from __future__ import annotations

import secrets
import time

import protocol
from balance.access.tokens import digest
from balance.auth import Caller

TICKET_S = 60
TICKETS_MAX = 10_000  # that are not used yet; each lasts a minute


class Tickets:
    """The tickets that were issued and not used yet."""

    def __init__(self) -> None:
        self._issued: dict[bytes, tuple[Caller, float]] = {}  # by digest, oldest first

    def issue(self, caller: Caller) -> str:
        """Return a new ticket with which a stream is opened in the name of a caller. Raises Busy."""
        now = time.monotonic()
        self._forget_expired(now)
        if len(self._issued) >= TICKETS_MAX:
            raise protocol.Busy(f"{TICKETS_MAX} tickets wait to be used")
        ticket = secrets.token_urlsafe(24)
        self._issued[digest(ticket)] = caller, now + TICKET_S
        return ticket

    def is_valid(self, ticket: str) -> bool:
        """Return whether a ticket can be used; it remains so."""
        found = self._issued.get(digest(ticket))
        return found is not None and time.monotonic() < found[1]

    def use(self, ticket: str) -> Caller:
        """Return the caller for which a ticket was issued, once. Raises Unauthorized."""
        found = self._issued.pop(digest(ticket), None)
        if found is None or time.monotonic() >= found[1]:
            raise protocol.Unauthorized(f"is unknown, was used, or is older than {TICKET_S} s: get another", "ticket")
        return found[0]

    def _forget_expired(self, now: float) -> None:
        while self._issued:
            key = next(iter(self._issued))
            if now < self._issued[key][1]:
                return
            del self._issued[key]
