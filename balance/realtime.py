"""Socket.IO: events in, publish out.

`Watchers` are the clients that have joined, and the way to them; `Realtime` answers what they send. Every
event is answered, and where the client asked for an acknowledgement it gets the same payload there too.

A watcher first gets CONNECT, then `connected` with the place in the feed where its live tail begins, then each
snapshot after that place, in order. Runs on the event loop; nothing here waits for a client.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from engineio.packet import MESSAGE, Packet
from socketio import exceptions
from socketio import packet as sio_packet

import protocol
from balance.engine import NAMESPACE, Engine, SocketServer
from balance.service import Service
from balance.snapshot import Snapshot, format_ts

log = logging.getLogger("balance.realtime")

GREETING = "Connected to balance snapshot server"  # SEED.md, `connected`


class Watchers:
    """The clients that have joined, by their Engine.IO session."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._joined: set[str] = set()

    def __len__(self) -> int:
        return len(self._joined)

    def __contains__(self, eio_sid: object) -> bool:
        return eio_sid in self._joined

    def add(self, eio_sid: str) -> None:
        """Show a client every snapshot that is published from now on."""
        self._joined.add(eio_sid)

    def discard(self, eio_sid: str) -> None:
        """Show a client no more."""
        self._joined.discard(eio_sid)

    def send(self, eio_sid: str, event: str, payload: object) -> None:
        """Send one event to one client."""
        self._engine.deliver(eio_sid, _frame(sio_packet.EVENT, [event, payload]))

    def acknowledge(self, eio_sid: str, ack_id: int, payload: object) -> None:
        """Answer the event that a client sent with this acknowledgement id."""
        self._engine.deliver(eio_sid, _frame(sio_packet.ACK, [payload], str(ack_id)))

    def publish(self, snapshots: Sequence[Snapshot]) -> None:
        """Send `balance:snapshot` for each, in this order, to everyone who has joined."""
        frames = [_frame(sio_packet.EVENT, [protocol.BALANCE_SNAPSHOT, one.to_wire()]) for one in snapshots]
        for eio_sid in tuple(self._joined):
            for frame in frames:
                self._engine.deliver(eio_sid, frame)


class Realtime:
    """What the service says to each event of SEED.md."""

    def __init__(self, server: SocketServer, watchers: Watchers, service: Service) -> None:
        self._server = server
        self._watchers = watchers
        self._service = service
        server.on_joined = self._on_joined
        server.on_refused = self._on_refused
        server.on("connect", self._on_connect)
        server.on("disconnect", self._on_disconnect)
        server.on(protocol.BALANCE_UPDATE, self._on_update)
        server.on(protocol.PING, self._on_ping)

    async def _on_connect(self, sid: str, environ: dict[str, Any], auth: object = None) -> None:
        try:
            protocol.check("connect_auth", auth)
        except protocol.ServiceError as error:
            raise exceptions.ConnectionRefusedError(str(error), error.body()) from error

    def _on_joined(self, eio_sid: str, sid: str) -> None:
        position = self._service.position
        assert position is not None, "the handshake is refused until there is one"
        greeting = {
            "message": GREETING,
            "socketId": sid,
            "timestamp": _now(),
            "seq": position.seq,
            "epoch": position.epoch,
        }
        self._watchers.send(eio_sid, protocol.CONNECTED, greeting)
        self._watchers.add(eio_sid)

    async def _on_disconnect(self, sid: str, reason: str) -> None:
        self._watchers.discard(self._session(sid))

    async def _on_update(self, sid: str, *arguments: Any) -> dict[str, Any]:
        """Save an update and answer it. Whatever happens, the sender hears of it: a bot that hears nothing
        can only guess, and python-socketio says nothing of an exception."""
        payload = arguments[0] if arguments else None
        try:
            if len(arguments) != 1:
                raise protocol.InvalidPayload(f"takes one payload, not {len(arguments)}", protocol.BALANCE_UPDATE)
            saved = await self._service.save(payload)
        except protocol.ServiceError as error:
            return self._answer(sid, protocol.BALANCE_ERROR, _refusal(error, payload))
        except Exception:
            log.exception("an update could not be saved")
            return self._answer(sid, protocol.BALANCE_ERROR, _refusal(protocol.InternalError(), payload))
        ack = saved.snapshot.to_ack()
        return self._answer(sid, protocol.BALANCE_ACK, {**ack, "duplicate": True} if saved.duplicate else ack)

    async def _on_ping(self, sid: str, *_ignored: Any) -> dict[str, Any]:
        return self._answer(sid, protocol.PONG, {"timestamp": _now()})

    def _on_refused(self, eio_sid: str, ack_id: int | None, error: protocol.ServiceError) -> None:
        if eio_sid not in self._watchers:
            return  # it has not joined, so no event is meant for it; if it does not join, its session ends
        refusal = _refusal(error, None)
        self._watchers.send(eio_sid, protocol.BALANCE_ERROR, refusal)
        if ack_id is not None:
            self._watchers.acknowledge(eio_sid, ack_id, refusal)

    def _answer(self, sid: str, event: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Send the answer as an event; what is returned goes out as the acknowledgement, if one was asked for."""
        self._watchers.send(self._session(sid), event, payload)
        return payload

    def _session(self, sid: str) -> str:
        return self._server.manager.eio_sid_from_sid(sid, NAMESPACE) or ""


def _frame(packet_type: int, data: list[Any], ack_id: str = "") -> Packet:
    # Built by hand: the library's Packet would first walk through all of `data` in search of bytes.
    return Packet(MESSAGE, f"{packet_type}{ack_id}{protocol.dumps(data)}")


def _refusal(error: protocol.ServiceError, update: object) -> dict[str, Any]:
    """The payload of `balance:error` (schemas/balance_error.json)."""
    refusal = error.body()
    if isinstance(update, dict) and isinstance(update.get("id"), str):
        refusal["id"] = update["id"]
    if error.retry_after_s is not None:
        refusal["retryAfter"] = error.retry_after_s
    return refusal


def _now() -> str:
    return format_ts(datetime.now(UTC))
