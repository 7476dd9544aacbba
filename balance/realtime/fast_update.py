"""The short way of an update: from its frame to the service, past the tasks that python-socketio makes for an event.

It takes the plain case only, one `balance:update` with one payload of a client that is connected and has nothing else
before it, and answers as the long way does, to the last byte: a property test holds the two together. Whatever is not
plain it leaves to `server` and `events`: another event, other arguments, what is large, what is no JSON.

Relied on inside python-socketio 5, beside what `server` names: that packets of one client are handled one at a time, so
that no packet is before this one while the library waits for the next.
tests/integration/test_fast_update_parity.py pins it.
"""

from __future__ import annotations

import re
from typing import Any

import protocol
from balance.realtime.events import Realtime
from balance.realtime.server import SocketServer
from balance.realtime.watchers import Watchers

PLAIN = re.compile(r'42([0-9]{0,15})\["' + re.escape(protocol.BALANCE_UPDATE) + r'",')


class ShortWay:
    """Takes updates out of frames."""

    def __init__(self, server: SocketServer, watchers: Watchers, events: Realtime, *, body_bytes_max: int) -> None:
        self._server = server
        self._watchers = watchers
        self._events = events
        self._length_max = body_bytes_max // 4  # in characters: UTF-8 takes at most four bytes for each

    def take(self, eio_sid: str, frame: str) -> bool:
        """Save the update that a frame holds, and answer it; say whether it was one to be taken here."""
        found = PLAIN.match(frame)
        if (
            found is None
            or len(frame) > self._length_max
            or frame[-1] != "]"
            or eio_sid not in self._watchers
            or not self._server.has_room(eio_sid)
        ):
            return False
        try:
            update: Any = protocol.decode_update(frame[found.end() : -1])
        except protocol.MalformedJson:  # no JSON, or more than one payload
            return False
        self._server.begin(eio_sid)
        self._events.on_update(
            eio_sid, int(found[1]) if found[1] else None, [update], lambda: self._server.end_one(eio_sid)
        )
        return True
