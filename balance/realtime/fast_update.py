"""Fast path for an update: from its frame to `EventHandlers`, without the task in which python-engineio reads frames.

It handles the plain case only: one `balance:update` with one payload, of a client that has joined and has nothing else
before it. Everything else is left to the slow path in `server`: another event, other arguments, a large payload, a text
that is not JSON. Both paths call `EventHandlers.on_update`, which asks for permission, and both give the same answer,
to the last byte (tests/integration/test_fast_update_parity.py).

python-engineio handles the packets of one client one at a time. So nothing is before this packet while the library
waits for the next one; the same test shows it.
"""

from __future__ import annotations

import re
from typing import Any

import protocol
from balance.realtime.events import EventHandlers
from balance.realtime.session import Session

PLAIN = re.compile(r'42([0-9]{0,15})\["' + re.escape(protocol.BALANCE_UPDATE) + r'",')


class UpdateFastPath:
    """Handles updates in frames."""

    def __init__(self, handlers: EventHandlers, *, body_bytes_max: int, updates_in_flight_max: int) -> None:
        self._handlers = handlers
        self._length_max = body_bytes_max // 4  # in characters: UTF-8 has at most four bytes for each
        self._in_flight_max = updates_in_flight_max

    def try_handle(self, session: Session, frame: str) -> bool:
        """Save the update that a frame holds, and answer it; return False if the slow path must handle the frame."""
        found = PLAIN.match(frame)
        if (
            found is None
            or len(frame) > self._length_max
            or frame[-1] != "]"
            or not session.has_joined
            or session.in_flight >= self._in_flight_max
        ):
            return False
        try:
            update: Any = protocol.decode_update(frame[found.end() : -1])
        except protocol.MalformedJson:  # not JSON, or more than one payload
            return False
        self._handlers.on_update(session, int(found[1]) if found[1] else None, [update])
        return True
