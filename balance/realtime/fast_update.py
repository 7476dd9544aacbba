"""Fast path for an update: from its frame to `EventHandlers`, past the task in which python-engineio reads frames.

It handles the plain case only: one `balance:update` with one payload, of a client that is connected and has nothing
else before it. It answers as the slow path does, to the last byte; a property test holds the two together. Everything
else is left to `server`: another event, other arguments, what is large, what is not JSON. Both paths reach
`EventHandlers.on_update`, which authorizes the update.

Relied on inside python-engineio: packets of one client are handled one at a time, so that none is before this one while
the library waits for the next. tests/integration/test_fast_update_parity.py shows it.
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
