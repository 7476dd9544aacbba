"""Coalesces what is sent to one client in one turn of the event loop, or while corked, into one write.

The term is that of TCP_CORK, see tcp(7). Frames of a turn leave in a turn of their own; what is sent under `with cork:`
leaves at its end, and costs no further turn (10 µs of an update).

Threads: event loop only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from balance.realtime.session import Session


class Cork:
    """The sessions for which frames are buffered, which bypass their queues."""

    def __init__(self) -> None:
        self._sessions: list[Session] = []
        self._is_corked = False

    def __enter__(self) -> None:
        self._is_corked = True

    def __exit__(self, *_: object) -> None:
        self._is_corked = False
        self.flush()

    def add(self, session: Session, frames: bytes) -> None:
        """Buffer the first frames for a session with nothing unsent; more go to its queue's `add_buffered`."""
        if not self._sessions and not self._is_corked:
            asyncio.get_running_loop().call_soon(self.flush)
        self._sessions.append(session)
        session.send_queue.add_buffered(frames)

    def add_to(self, sessions: Collection[Session], frames: bytes) -> set[Session]:
        """Append frames to what is buffered for any of `sessions`; return those for which something was."""
        found = {session for session in self._sessions if session in sessions and session.send_queue.has_buffered}
        for session in found:
            session.send_queue.add_buffered(frames)
        return found

    def flush(self) -> None:
        """Send what is buffered, in one write for each client."""
        sessions, self._sessions = self._sessions, []
        for session in sessions:
            if session.send_queue.has_buffered:
                frames = session.send_queue.pop_buffered()
                if session.connection is not None and session.connection.is_open:
                    session.connection.write(frames)
