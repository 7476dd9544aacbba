"""The clients that have joined: what is sent to one of them, or to all that are live. Nothing here waits for a client.

A client is live from the moment at which it has received everything before: then each snapshot is sent to it as it is
published, in the form that it asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import protocol
from balance.access.authenticator import Authenticator
from balance.aio.slices import SlicedWork
from balance.auth import ANONYMOUS
from balance.realtime.engine import Engine
from balance.realtime.event_packets import Form, acknowledgement, event
from balance.realtime.frames import POLICY, SERVICE_RESTART, TRY_AGAIN_LATER
from balance.realtime.send_queue import EncodedPackets
from balance.realtime.session import Session
from balance.snapshot import EncodedSnapshot


class Watchers:
    """The clients that have joined."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sender = engine.sender
        self._live: dict[Form, dict[Session, None]] = {}
        self.deliveries = 0
        """The events of published snapshots that were sent to clients, or queued for them."""
        self._epoch = ""  # of all live clients: in another one `end_all` is called first
        self._rejected = SlicedWork(self._end_unauthorized)
        self._outdated = SlicedWork(self._reset)  # clients that joined before `end_all`

    def __len__(self) -> int:
        return sum([session.has_joined for session in self._engine.sessions.values()])

    @property
    def has_watchers(self) -> bool:
        """Whether there is a client that waits for snapshots."""
        return bool(self._engine.sessions)

    def join(self, session: Session) -> None:
        """Send events to a client from now on; it knows the epoch of the feed."""
        session.has_joined = True
        self._outdated.discard(session)  # it has left and connected again

    def send(self, session: Session, name: str, *arguments: object) -> None:
        """Send one event to one client."""
        self._sender.send(session, EncodedPackets(event(name, *arguments)))

    def answer(self, session: Session, name: str, payload: object, ack_id: int | None) -> None:
        """Answer what a client sent by an event, and by the acknowledgement if it asked for one.

        A client that has not joined, or has left, is sent no event.
        """
        if not session.has_joined:
            return
        packets = [event(name, payload)]
        if ack_id is not None:
            packets.append(acknowledgement(ack_id, payload))
        self._sender.send(session, EncodedPackets(*packets))

    async def send_missed(self, session: Session, packets: EncodedPackets, last: int) -> None:
        """Send a page of what a client has missed, up to seq `last`; return when it may be sent the next one."""
        session.replayed = last
        await self._sender.send_paced(session, packets)

    def go_live(self, session: Session, form: Form, epoch: str) -> None:
        """Send each snapshot of an epoch from now on to a client."""
        self._epoch = epoch
        session.live_group = self._live.setdefault(form, {})
        session.live_group[session] = None

    def publish(self, snapshots: Sequence[EncodedSnapshot]) -> None:
        """Send `balance:snapshot` for each, in this order, to every live client."""
        for form, group in self._live.items():
            if group:
                self.deliveries += len(snapshots) * len(group)
                self._sender.broadcast(form(snapshots, self._epoch), group)

    def disconnect_slow(self, session: Session) -> None:
        """Disconnect a client that does not read."""
        self._sender.disconnect_slow(session)

    def end(self, session: Session, reason: str) -> None:
        """Disconnect a client, so that it connects again and resumes."""
        session.has_joined = False
        self._engine.abort_session(session, close=(TRY_AGAIN_LATER, reason))

    def end_unauthorized(self, authenticator: Authenticator) -> None:
        """End the sessions of clients whose credential is revoked or has expired.

        A client is sent the reason at one call and disconnected at the next one, so that what waits for it is sent
        before: a poll may still have to come for it. Between the two it may do nothing.
        """
        joined = [session for session in self._engine.sessions.values() if session.has_joined]
        faults = [(session, authenticator.fault(session.context.caller)) for session in joined]
        self._rejected.add([(session, fault) for session, fault in faults if fault is not None])

    def _end_unauthorized(self, session_and_fault: tuple[Session, protocol.Unauthorized]) -> None:
        session, fault = session_and_fault
        if session.has_ended:
            return
        if session.context.caller is ANONYMOUS:
            self._engine.abort_session(session, close=(POLICY, "the token is no longer valid"))
            return
        session.stop_watching()
        session.context.caller = ANONYMOUS
        self.send(session, protocol.BALANCE_ERROR, fault.body())

    def end_all(self) -> None:
        """Disconnect every client that has joined: each has to compare its position with the new epoch.

        None of them is live from now on; their ends are spread over turns of the event loop. A client that joins
        meanwhile stays.
        """
        self._live = {}
        self._outdated.add([session for session in self._engine.sessions.values() if session.has_joined])

    def _reset(self, session: Session) -> None:
        session.leave()
        if not session.has_ended:
            self._engine.abort_session(session, close=(SERVICE_RESTART, "the feed has a new epoch"))
