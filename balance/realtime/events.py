"""What the service says to each event of SEED.md.

Every event is answered, and where the client asked for an acknowledgement it gets the same payload there too. A
watcher first gets CONNECT, then `connected` with the place in the feed where its live tail begins, then each
snapshot after that place, in order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import protocol
from balance.feed.pending import PendingSave
from balance.realtime.server import SocketServer
from balance.realtime.watchers import Watchers
from balance.service import Service, now
from balance.snapshot import Saved, format_ts

log = logging.getLogger("balance.realtime")

GREETING = "Connected to balance snapshot server"  # SEED.md, `connected`


class Realtime:
    """What the service says to each event of SEED.md."""

    def __init__(self, server: SocketServer, watchers: Watchers, service: Service) -> None:
        self._server = server
        self._watchers = watchers
        self._service = service
        server.on_joined = self._on_joined
        server.on_update = self.on_update
        server.on_refused = self._on_refused
        server.check_auth = partial(protocol.check, "connect_auth")
        server.on("disconnect", self._on_disconnect)
        server.on(protocol.PING, self._on_ping)

    def _on_joined(self, eio_sid: str, sid: str) -> None:
        position = self._service.position
        assert position is not None, "the handshake is refused until there is one"
        greeting = {
            "message": GREETING,
            "socketId": sid,
            "timestamp": format_ts(now()),
            "seq": position.seq,
            "epoch": position.epoch,
        }
        self._watchers.send(eio_sid, protocol.CONNECTED, greeting)
        self._watchers.add(eio_sid)

    async def _on_disconnect(self, sid: str, reason: str) -> None:
        self._watchers.discard(self._session(sid))

    def on_update(self, eio_sid: str, ack_id: int | None, payloads: list[Any], done: Callable[[], None]) -> None:
        """Save an update, in its place among those of its client, and answer it; call `done` after the answer.

        Whatever happens, the sender hears of it: a bot that hears nothing can only guess.
        """
        update = payloads[0] if payloads else None
        try:
            if len(payloads) != 1:
                raise protocol.InvalidPayload(f"takes one payload, not {len(payloads)}", protocol.BALANCE_UPDATE)
            pending = self._service.begin_save(update)
        except Exception as error:
            self._watchers.answer(eio_sid, protocol.BALANCE_ERROR, _refusal(error, update), ack_id)
            done()
        else:
            pending.add_done_callback(partial(self._end_update, eio_sid, ack_id, update, done))

    def _end_update(
        self, eio_sid: str, ack_id: int | None, update: object, done: Callable[[], None], pending: PendingSave
    ) -> None:
        try:
            event, payload = protocol.BALANCE_ACK, _ack(self._service.finish_save(pending))
        except Exception as error:
            event, payload = protocol.BALANCE_ERROR, _refusal(error, update)
        self._watchers.answer(eio_sid, event, payload, ack_id)
        done()

    async def _on_ping(self, sid: str, *_ignored: Any) -> dict[str, Any]:
        """Answer by an event; what is returned goes out as the acknowledgement, if one was asked for."""
        pong = {"timestamp": format_ts(now())}
        self._watchers.send(self._session(sid), protocol.PONG, pong)
        return pong

    def _on_refused(self, eio_sid: str, ack_id: int | None, error: protocol.ServiceError) -> None:
        self._watchers.answer(eio_sid, protocol.BALANCE_ERROR, _refusal(error, None), ack_id)

    def _session(self, sid: str) -> str:
        return self._server.manager.eio_sid_from_sid(sid, protocol.NAMESPACE) or ""


def _ack(saved: Saved) -> dict[str, Any]:
    """The payload of `balance:ack` (schemas/balance_ack.json)."""
    ack = saved.snapshot.to_ack()
    return {**ack, "duplicate": True} if saved.duplicate else ack


def _refusal(error: Exception, update: object) -> dict[str, Any]:
    """The payload of `balance:error` (schemas/balance_error.json); what we do not know is our own fault, and logged."""
    if not isinstance(error, protocol.ServiceError):
        log.error("an update could not be saved", exc_info=error)
        error = protocol.InternalError()
    refusal = error.body()
    if isinstance(update, dict) and isinstance(update.get("id"), str):
        refusal["id"] = update["id"]
    if error.retry_after_s is not None:
        refusal["retryAfter"] = error.retry_after_s
    return refusal
