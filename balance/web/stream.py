"""`GET /api/balance/stream`: open a stream of server-sent events.

A browser's EventSource gives up for ever on any status but 200. So a client that cannot be served now gets a stream
that ends at once, with the reason in its event `bye`; an error status means that the request itself must be changed.

The handler ends when the head of the response has been sent; `stream_hub` serves the stream from then on.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import protocol
from balance.auth import Caller, Operation, authorize
from balance.feed.resumption import Resumption
from balance.position import ClaimedPosition, parse_token, to_token
from balance.refusals import SSE
from balance.service import Life, Service
from balance.web.base import JsonHandler, to_service_error
from balance.web.event_stream import EventStream
from balance.web.headers import encode_head
from balance.web.http_connection import Exchange
from balance.web.query import read_query, to_claimed
from balance.web.request_stream import RequestStream
from balance.web.sse import HEADERS, encode_event, encode_retry
from balance.web.stream_hub import BUSY, STOPPING, UNAVAILABLE, StreamHub
from balance.web.watcher_limit import WatcherLimit

INTEGER_PARAMETERS = frozenset(("after", "pid"))  # of schemas/stream_query.json
LAST_EVENT_ID = "Last-Event-ID"


class StreamHandler(JsonHandler):
    """One request for a stream."""

    operation = Operation.WATCH
    transport = SSE
    allowed_headers = LAST_EVENT_ID  # EventSource needs no permission to send it; a program in a page does

    def initialize(  # type: ignore[override]  # Tornado passes the arguments of the route
        self, *, service: Service, hub: StreamHub, watcher_limit: WatcherLimit, **common: Any
    ) -> None:
        super().initialize(**common)
        self.service = service
        self.hub = hub
        self.watcher_limit = watcher_limit

    def find_caller(self) -> Caller:
        """Return the caller that a ticket names, or that of the header. Raises Unauthorized, Forbidden, Unavailable."""
        tickets = self.request.query_arguments.get("ticket")
        if not tickets or self.authenticator.ignores_credentials or self.read_credential() is not None:
            return super().find_caller()
        caller = self.authenticator.use_ticket(tickets[0].decode(errors="replace"), self.context.client)
        if (fault := self.authenticator.fault(caller)) is not None:
            raise fault
        authorize(caller.role, Operation.WATCH)
        return caller

    async def on_get(self, *_path: str) -> None:
        query = read_query(self.request, INTEGER_PARAMETERS, repeatable=("pid",))
        protocol.check("stream_query", query)
        claimed = self._claimed_position(query)
        if self.request.method == "HEAD":
            self._begin_stream(b"").end(b"")
            return
        self.watcher_limit.count_handshake(self.context.client)
        self._check_capacity()
        resumption = await self.service.feed.resume(claimed)
        self._check_capacity()  # others were served meanwhile
        stream = self._begin_stream(encode_retry() + encode_connected(resumption), query.get("pid"))
        self.hub.add(stream, resumption.position)

    def _claimed_position(self, query: dict[str, Any]) -> ClaimedPosition | None:
        """Return the position after which a client wants to go on; None if it names none. Raises InvalidPayload."""
        headers = self.request.headers.get_list(LAST_EVENT_ID)
        if len(headers) > 1:
            raise protocol.InvalidPayload("is given more than once", LAST_EVENT_ID)
        if headers and headers[0]:
            protocol.check("stream_headers", {LAST_EVENT_ID: headers[0]})
            return parse_token(headers[0])
        if "last_event_id" in query:
            return parse_token(query["last_event_id"])
        return to_claimed(query["after"], query) if "after" in query else None

    def _check_capacity(self) -> None:
        """Check that one more stream can be served now. Raises Unavailable and Busy."""
        if self.service.life is not Life.RUNNING:
            raise protocol.Unavailable(self.service.life.value)
        self.watcher_limit.check()

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer a request that must be changed by an error; any other by a stream that ends at once.

        A client that waits for 100 Continue is not an EventSource, and gets an error: a stream can only begin after the
        whole request.
        """
        error = to_service_error(kwargs["exc_info"][1] if "exc_info" in kwargs else None, status_code)
        must_change = error.status < 500 and not error.temporary
        if must_change or self.request.method == "HEAD" or self.request_head.expects_continue:
            super().write_error(status_code, **kwargs)
            return
        self.context.code = error.code
        self.count_refusal(error)
        self.set_cors_headers()  # otherwise the page that called could not read the reason
        retry = encode_retry(at_least_s=error.retry_after_s or 0)
        self._begin_stream(b"").end(retry + encode_event("bye", {"reason": self.bye_reason(error)}))

    def bye_reason(self, error: protocol.ServiceError) -> str:
        """Return why a client cannot be served now (schemas/bye_reason.json)."""
        if self.service.life is Life.DRAINING:
            return STOPPING
        return BUSY if isinstance(error, protocol.Busy | protocol.RateLimited) else UNAVAILABLE

    def _begin_stream(self, first: bytes, pids: Collection[int] | None = None) -> EventStream:
        """Send the head of the response, and `first`; return the stream, which belongs to no request any more."""
        connection = self.request.connection
        assert isinstance(connection, Exchange)
        self.application.log_request(self)
        for name, value in HEADERS.items():
            self._headers[name] = value
        head = encode_head(200, self._headers)
        raw = self.detach()
        self.ui = None  # type: ignore[assignment]  # refers to this handler
        assert isinstance(raw, RequestStream)
        stream = EventStream(raw, connection.closer, self.context, None if pids is None else tuple(sorted(set(pids))))
        if not stream.is_closed:
            stream.send(head + first)
        return stream


def encode_connected(resumption: Resumption) -> bytes:
    """Encode the first event of a stream (schemas/stream_connected.json)."""
    position = resumption.position
    return encode_event(
        protocol.CONNECTED, resumption.to_wire(), to_token(position.epoch, position.seq, resumption.tag)
    )
