"""How the service answers the events of its clients.

Every event is answered by an event; if the client asked for an acknowledgement, this has the same payload. A watcher
receives CONNECT, then `connected`, then each snapshot after its position, in order: first what it has missed, then the
live tail. docs/spec.md has the events.

A new event is a row of `protocol.EVENTS` and a method here, listed in `_handlers`.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from time import monotonic
from typing import Any

import protocol
from balance.auth import Operation, authorize
from balance.feed.pending import PendingSave
from balance.feed.replay import Receiver, ReplayBroken, SlowClient
from balance.feed.resumption import Resumption
from balance.position import Position
from balance.rate_limit import RateLimit
from balance.realtime.connect_auth import ConnectAuth
from balance.realtime.event_packets import Form, form_and_offset
from balance.realtime.session import Session
from balance.realtime.watchers import Watchers
from balance.refusals import SOCKET_IO
from balance.request_context import OK
from balance.request_log import RequestLog
from balance.service import Service, now
from balance.snapshot import Saved, format_ts

log = logging.getLogger("balance.realtime")

EXPECTED_ENDS = ("client disconnect", "server disconnect", "transport close")
GREETING = "Connected to balance snapshot server"  # docs/spec.md, `connected`


class EventHandlers:
    """Handles what the clients send. No method waits or raises."""

    def __init__(self, service: Service, watchers: Watchers, limit: RateLimit, request_log: RequestLog) -> None:
        """Limit the updates of each client by `limit`."""
        self._service = service
        self._limit = limit
        self._request_log = request_log
        self._feed = service.feed
        self._watchers = watchers
        self._handlers = {protocol.BALANCE_UPDATE: self.on_update, protocol.PING: self.on_ping}

    async def resume(self, session: Session, auth: ConnectAuth) -> Resumption:
        """Decide from which position a client is sent snapshots. Raises Unavailable."""
        try:
            resumption = await self._feed.resume(auth.claimed)
        except protocol.Unavailable:
            raise
        except Exception as error:  # otherwise the client would wait for an answer for ever
            log.exception("a position could not be looked up")
            raise protocol.Unavailable("internal error") from error
        session.answer_pid = auth.answer_pid(resumption.head.epoch, recovered=resumption.recovered)
        return resumption

    def on_joined(self, session: Session, sid: str, resumption: Resumption, started: float) -> None:
        """Greet a client whose CONNECT packet is answered, and send it every snapshot after its position.

        `started` is when that packet came.
        """
        position, epoch = resumption.position, resumption.head.epoch
        greeting = {
            "message": GREETING,
            "socketId": sid,
            "timestamp": format_ts(now()),
            **resumption.to_wire(),
            "durability": self._feed.durability,
        }
        form, offset = form_and_offset(session.answer_pid, epoch, position.seq, resumption.tag)
        self._watchers.send(session, protocol.CONNECTED, greeting, *offset)
        self._watchers.join(session)
        session.joined_at = monotonic()
        self._request_log.write(session.context, "connect", OK, started)
        if position == self._feed.head:
            self._watchers.go_live(session, form, epoch)
        else:
            session.replayed = position.seq
            session.replay = asyncio.create_task(self._replay(session, position, form))

    async def _replay(self, session: Session, position: Position, form: Form) -> None:
        """Send a client what it has missed, until it is live; if that fails, end its session, so that it resumes."""
        send = partial(self._watchers.send_missed, session)
        go_live = partial(self._watchers.go_live, session, form, position.epoch)
        try:
            await self._feed.replay(position, Receiver(form, send, go_live, session.context.client))
        except SlowClient:
            self._watchers.disconnect_slow(session)
        except (protocol.Unavailable, ReplayBroken) as error:
            self._watchers.end(session, str(error))
        except Exception:
            log.exception("a client could not be sent what it has missed")
            self._watchers.end(session, "internal error")
        finally:
            if session.replay is asyncio.current_task():  # else the client has left, and may be in its next replay
                session.replay = None

    def on_connect_rejected(self, session: Session, error: protocol.ServiceError) -> None:
        """Log a client whose CONNECT packet is rejected."""
        self._request_log.write(session.context, "connect", error.code, monotonic())

    def on_left(self, session: Session, reason: str) -> None:
        """Log the end of a client that has joined; `reason` is one of python-engineio's."""
        if session.joined_at is not None:
            code = OK if reason in EXPECTED_ENDS else reason
            self._request_log.write(session.context, "disconnect", code, session.joined_at, may_wait=True)
            session.joined_at = None

    def on_event(self, session: Session, name: str, ack_id: int | None, payloads: list[Any]) -> None:
        """Handle an event, or answer that there is none of this name."""
        handle = self._handlers.get(name)
        if handle is None:
            error = protocol.InvalidPayload(f"{name[:40]!r} is not one that this server takes", "event")
            self.on_rejected(session, ack_id, error)
        else:
            handle(session, ack_id, payloads)

    def on_update(self, session: Session, ack_id: int | None, payloads: list[Any]) -> None:
        """Save an update, in order among those of its client, and answer it. Until then it is in flight.

        It is answered whatever happens: a bot without an answer cannot know whether it is saved.
        """
        started = monotonic()
        session.acquire()
        update = payloads[0] if payloads else None
        try:
            authorize(session.context.caller.role, Operation.SAVE)
            if self._limit.is_on:
                self._limit.acquire(session.limit_key)
            if len(payloads) != 1:
                raise protocol.InvalidPayload(f"takes one payload, not {len(payloads)}", protocol.BALANCE_UPDATE)
            pending = self._service.begin_save(update)
        except Exception as error:
            payload = self._reject_save(error, update)
            self._request_log.write(session.context, protocol.BALANCE_UPDATE, payload["code"], started)
            self._watchers.answer(session, protocol.BALANCE_ERROR, payload, ack_id)
            session.release()
        else:
            done = partial(self._answer_update, session, session.leaves, ack_id, update, started)
            pending.add_done_callback(done)

    def _answer_update(
        self,
        session: Session,
        leaves: int,
        ack_id: int | None,
        update: object,
        started: float,
        pending: PendingSave,
    ) -> None:
        code = OK
        try:
            event, payload = protocol.BALANCE_ACK, _ack(self._service.finish_save(pending))
        except Exception as error:
            event, payload = protocol.BALANCE_ERROR, self._reject_save(error, update)
            code = payload["code"]
        self._request_log.write(session.context, protocol.BALANCE_UPDATE, code, started)
        if session.leaves == leaves:  # else a client that has connected again would count it as another answer
            self._watchers.answer(session, event, payload, ack_id)
        session.release()

    def on_ping(self, session: Session, ack_id: int | None, _payloads: list[Any]) -> None:
        """Answer a ping; its payload may be anything."""
        try:
            authorize(session.context.caller.role, Operation.PING)
        except (protocol.Forbidden, protocol.Unauthorized) as error:
            self.on_rejected(session, ack_id, error)
        else:
            self._request_log.write(session.context, protocol.PING, OK, monotonic())
            self._watchers.answer(session, protocol.PONG, {"timestamp": format_ts(now())}, ack_id)

    def on_rejected(self, session: Session, ack_id: int | None, error: protocol.ServiceError) -> None:
        """Answer a packet with an error: it is malformed, unexpected or not permitted."""
        self._request_log.write(session.context, "packet", error.code, monotonic())
        self.count_refusal(error)
        self._watchers.answer(session, protocol.BALANCE_ERROR, _error_payload(error, None), ack_id)

    def count_refusal(self, error: protocol.ServiceError) -> None:
        """Count an error that is sent to a client."""
        self._service.refusals.count(SOCKET_IO, error)

    def _reject_save(self, error: Exception, update: object) -> dict[str, Any]:
        """Count a rejected update, and return the payload of `balance:error`; a fault of the service is logged."""
        if not isinstance(error, protocol.ServiceError):
            log.error("an update could not be saved", exc_info=error)
            error = protocol.InternalError()
        self._service.refusals.count_save(SOCKET_IO, error)
        return _error_payload(error, update)


def _ack(saved: Saved) -> dict[str, Any]:
    """Return the payload of `balance:ack` (schemas/balance_ack.json)."""
    ack = saved.snapshot.to_ack()
    return {**ack, "duplicate": True} if saved.duplicate else ack


def _error_payload(error: protocol.ServiceError, update: object) -> dict[str, Any]:
    """Return the payload of `balance:error` (schemas/balance_error.json)."""
    payload = error.body_with_wait()
    if isinstance(update, dict) and isinstance(update.get("id"), str):
        payload["id"] = update["id"]
    return payload
