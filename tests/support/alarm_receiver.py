"""A receiver of alarms: an HTTP server that records requests, and a check of the signature of Standard Webhooks.

The check is written from the specification alone, and shares no code with the sender.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPHeaders, HTTPServerRequest, ResponseStartLine
from tornado.netutil import bind_sockets

import protocol

KEY = b"a key of a webhook, of 32 bytes!"
SECRET = "whsec_" + base64.b64encode(KEY).decode()
TOLERANCE_S = 300
ACCEPTED = 204
WAIT_S = 15.0


class Arrived(NamedTuple):
    """A request, with the time of its arrival by `time.monotonic`."""

    at: float
    path: str
    headers: HTTPHeaders
    body: bytes
    status: int
    """Of the response."""

    @property
    def json(self) -> Any:
        return protocol.loads(self.body)

    @property
    def alarm(self) -> tuple[str, str]:
        """The type of a webhook's event without its prefix, and the rule with its pid."""
        data = self.json["data"]
        about = "" if data["pid"] is None else f" {data['pid']}"
        return self.json["type"].removeprefix("alarm."), data["rule"] + about


class Receiver:
    """Records requests, and answers with ACCEPTED, or else with the next of `statuses`."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}/hook"
        self.arrived: list[Arrived] = []
        self.statuses: list[int] = []
        self.answer_headers: dict[str, str] = {}
        self._grown = asyncio.Event()

    def __call__(self, request: HTTPServerRequest) -> None:
        status = self.statuses.pop(0) if self.statuses else ACCEPTED
        self.arrived.append(Arrived(time.monotonic(), str(request.path), request.headers, request.body, status))
        self._grown.set()
        headers = HTTPHeaders({"Content-Length": "0", **self.answer_headers})
        assert request.connection is not None
        request.connection.write_headers(ResponseStartLine("HTTP/1.1", status, "answer"), headers)
        request.connection.finish()

    @property
    def accepted(self) -> list[Arrived]:
        """The requests that were answered with success, each `webhook-id` once: a lost response makes it come again."""
        accepted = [one for one in self.arrived if one.status == ACCEPTED]
        return list({one.headers.get("webhook-id", str(n)): one for n, one in enumerate(accepted)}.values())

    async def until(self, count: int, seconds: float = WAIT_S) -> None:
        """Wait until that many requests were accepted."""
        async with asyncio.timeout(seconds):
            while len(self.accepted) < count:
                self._grown.clear()
                await self._grown.wait()

    @property
    def alarms(self) -> list[tuple[str, str]]:
        """What accepted webhooks have reported, in the order of their arrival."""
        return [one.alarm for one in self.accepted]


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """Run a receiver on a free loopback port within the block."""
    (socket,) = bind_sockets(0, "127.0.0.1")
    receiver = Receiver(socket.getsockname()[1])
    server = HTTPServer(receiver)
    server.add_socket(socket)
    try:
        yield receiver
    finally:
        server.stop()
        await server.close_all_connections()


def check_signature(arrived: Arrived, key: bytes = KEY) -> None:
    """Check a webhook as the specification of Standard Webhooks 1.0.0 describes it for consumers."""
    headers = arrived.headers
    timestamp = headers["webhook-timestamp"]
    assert abs(time.time() - int(timestamp)) < TOLERANCE_S
    signed = f"{headers['webhook-id']}.{timestamp}.".encode() + arrived.body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert f"v1,{expected}" in headers["webhook-signature"].split(" ")
