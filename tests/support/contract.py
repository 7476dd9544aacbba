"""The contract watcher: checks all traffic between a server and its clients against the contract, in every test.

`install` wraps the entries and exits of the service: each HTTP request and reply, each Socket.IO packet in and out. A
deviation from the tables and schemas of `protocol` is logged as an error, which fails the test (see the fixture
`silence`, and `Process` for a server in a process of its own). Schemas of replies and events are open, so that fields
can be added; here they are closed: a field that no schema names is a deviation too.
"""

from __future__ import annotations

import gzip
import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache, wraps
from typing import Any
from urllib.parse import parse_qsl, unquote
from weakref import WeakKeyDictionary

import jsonschema_rs
from engineio.async_socket import AsyncSocket
from engineio.packet import MESSAGE
from tornado.httputil import HTTPHeaders

import protocol
from balance.realtime.events import EventHandlers
from balance.realtime.send_queue import EncodedPackets
from balance.realtime.sender import Sender
from balance.realtime.server import SocketServer
from balance.realtime.session import Session
from balance.series import FROM_IS_LATE
from balance.web.base import JsonHandler
from balance.web.event_stream import EventStream
from balance.web.save import SaveRequest
from balance.web.stream import LAST_EVENT_ID
from balance.web.stream_hub import StreamHub
from protocol import events, operations, registry
from protocol.headers import HEADERS, REQUEST_ID
from protocol.operation import JSON, Response
from protocol.operations import SNAPSHOTS
from tests.support.sse import read_events

log = logging.getLogger("balance.contract")

OPERATOR_PATHS = re.compile("/api/balance/connections")  # which are for operators, and not a part of the contract
AGAINST = "against the contract"  # the start of each log line
PACKET = re.compile(r"([0-6])(?:[0-9]+-)?(?:(/[^,]*),?)?([0-9]{0,100})(.*)", re.DOTALL)
# The codes with which an update that is valid by its schema may still be refused.
BEYOND_THE_SCHEMA = {
    "unauthorized",
    "forbidden",
    "conflict",
    "payload_too_large",
    "rate_limited",
    "busy",
    "unavailable",
    "internal_error",
}
BY_THE_SCHEMA = {"invalid_payload", "malformed_json"}
# What begins the texts of rules that no schema has.
OTHER_RULES = (
    LAST_EVENT_ID,
    FROM_IS_LATE,
    "points: ",
    "asset: is for",
    "digits: is for",
    "from: must be earlier than to",
)
# The codes where there is no operation, and those at the path of Socket.IO.
NOWHERE = {
    *("not_found", "method_not_allowed", "unauthorized", "forbidden", "misdirected_request", "rate_limited", "busy"),
}
ON_POLLING = {error.code for error in events.HANDSHAKE_ERRORS} | {
    *("method_not_allowed", "malformed_json", "payload_too_large", "not_found"),
}
BY_EVENT = {error.code for event in protocol.EVENTS.values() for error in event.errors}
FORMS = {
    "Location": r"(?:/[\w.~-]+)*/api/(?:balance/snapshot/[0-9a-f-]{36}|docs)",
    "Retry-After": "[1-9][0-9]*",
    "ETag": '"[0-9a-f]{32}(-gzip)?"',
    "Content-Disposition": r'attachment; filename="balance-[0-9TZ]+\.(csv|ndjson)"',
    "RateLimit-Policy": r'"[a-z-]+";q=[1-9][0-9]*(;w=10|;qu="concurrent-requests")',
    "RateLimit": r'"[a-z-]+";r=[0-9]+(;t=[0-9]+)?',
    "WWW-Authenticate": r'Bearer realm="balance"(, error="invalid_token", error_description="[ !#-\[\]-~]+"'
    r'|, error="insufficient_scope", error_description="[ !#-\[\]-~]+", scope="balance:(read|write|admin)")?',
    REQUEST_ID: "[A-Za-z0-9._-]{1,128}",
}
INSUFFICIENT_SCOPE = 'error="insufficient_scope"'  # RFC 6750, section 3.1
NUMBERS = {"limit", "offset", "pid", "after", "wait", "heard_s", "points", "stale_s"}


def complain(text: str) -> None:
    """Log that something was against the contract."""
    log.error("%s: %s", AGAINST, text)


def closed(value: Any) -> Any:
    """Return a schema in which no object has fields that it does not name."""
    if isinstance(value, list):
        return [closed(item) for item in value]
    if not isinstance(value, dict):
        return value
    inner = {key: closed(item) for key, item in value.items()}
    return {"additionalProperties": False, **inner} if isinstance(value.get("properties"), dict) else inner


@cache
def _validators() -> dict[str, jsonschema_rs.Draft7Validator]:
    schemas = {name: closed(protocol.schema(name)) for name in protocol.names()}
    known = jsonschema_rs.Registry([(schema["$id"], schema) for schema in schemas.values()])
    return {name: jsonschema_rs.Draft7Validator(schema, registry=known) for name, schema in schemas.items()}


def errors(name: str, payload: object) -> list[str]:
    """Return what is wrong with a payload that the server sends under this schema."""
    validator = _validators()[name]
    if validator.is_valid(payload):
        return []
    return [
        f"{name}: {'.'.join(map(str, error.instance_path))}: {error.message}"
        for error in validator.iter_errors(payload)
    ]


def fits(name: str, payload: object) -> bool:
    """Return whether a payload of a client is valid, by the validator that `check` uses second."""
    return next(registry.slow_validator(name).iter_errors(payload), None) is None


# HTTP


def check_answer(
    method: str, target: str, body: bytes, status: int, headers: Mapping[str, str], answer: bytes
) -> Iterator[str]:
    """Yield what is wrong with a reply of the server."""
    path, _, query = target.partition("?")
    operation = operation_of(method, path)
    if OPERATOR_PATHS.fullmatch(path):
        return
    yield from (f"{name} is {headers[name]!r}" for name in FORMS if name in headers and not _is_good(name, headers))
    if REQUEST_ID not in headers:
        yield f"has no header {REQUEST_ID}"
    if status >= 400:
        yield from _check_refusal(operation, path, status, headers, answer)
        refusal = protocol.loads(answer)
        is_beyond = any(rule in refusal["error"] for rule in OTHER_RULES)
        is_by_schema = refusal["code"] in BY_THE_SCHEMA and not is_beyond
        if operation is not None and is_by_schema and _is_valid_request(operation, path, query, body):
            yield f"a valid request was refused by {refusal['code']}"
    elif operation is None:
        pages = f"/|({operations.DOCS}|/balances)(/.*)?"
        if method != "OPTIONS" and not re.fullmatch(f"{pages}|{protocol.SOCKET_PATH}/?", path):
            yield f"there is no operation, but the status is {status}"
    elif status not in operation.responses:
        yield f"{status} is not among its replies"
    else:
        yield from _check_reply(operation.responses[status], headers, answer)
        if operation.id == "saveSnapshot" and ("duplicate" in protocol.loads(answer)) != (status == 200):
            yield f"duplicate is missing or unexpected at {status}"
        if not _is_valid_request(operation, path, query, body):
            yield "an invalid request was accepted"


def _is_good(name: str, headers: Mapping[str, str]) -> bool:
    return re.fullmatch(FORMS[name], headers[name]) is not None


def _is_valid_request(operation: protocol.Operation, path: str, query: str, body: bytes) -> bool:
    """Return whether the parameters and the body of a request are valid."""
    try:
        if operation.body and operation.body_type == JSON:
            return fits(operation.body, protocol.loads(body))
        if "query" in operation.parameters:
            values = _query(operation.parameters["query"], query)
            return values is not None and fits(operation.parameters["query"], values)
        if operation.parameters.get("path") == "get_path":
            return fits("get_path", {"id": unquote(path.rpartition("/")[2], errors="replace")})
    except (protocol.MalformedJson, UnicodeDecodeError):
        return False
    return True


def _query(schema: str, query: str) -> dict[str, Any] | None:
    """Return the parameters of a query, with integers and lists as such; None if one is repeated that is not a list."""
    properties = protocol.schema(schema)["properties"]
    values: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True, errors="strict"):
        value = int(text) if name in NUMBERS and re.fullmatch("-?[0-9]{1,30}", text) else text
        if properties.get(name, {}).get("type") == "array":
            values.setdefault(name, []).append(value)
        elif name in values:
            return None
        else:
            values[name] = value
    return values


def _check_reply(reply: Response, headers: Mapping[str, str], answer: bytes) -> Iterator[str]:
    needed = [name for name in reply.headers if HEADERS[name].is_always_sent]
    yield from (f"has no header {name}" for name in needed if name not in headers)
    media_types = {reply.media_type, *reply.other_examples}
    if reply.media_type and headers["Content-Type"].partition(";")[0] not in media_types:
        yield f"is of the media type {headers['Content-Type']}"
    if reply.schema:
        zipped = headers.get("Content-Encoding") == "gzip"
        yield from errors(reply.schema, protocol.loads(gzip.decompress(answer) if zipped else answer))
    if not reply.media_type and answer:
        yield "has a body"


def _check_refusal(
    operation: protocol.Operation | None, path: str, status: int, headers: Mapping[str, str], answer: bytes
) -> Iterator[str]:
    refusal = protocol.loads(answer)
    is_problem = headers["Content-Type"] == operations.PROBLEM
    yield from errors("problem_details" if is_problem else "error_reply", refusal)
    error = protocol.ERRORS[refusal["code"]]
    if error.status != status:
        yield f"{error.code} has the status {status}"
    if operation is not None:
        may = {one.code for one in operation.errors}
    else:
        may = ON_POLLING if path.startswith(protocol.SOCKET_PATH) else NOWHERE
    if error.code not in may:
        yield f"{error.code} is not among its errors"
    if error.temporary != ("Retry-After" in headers):
        yield "Retry-After is missing or unexpected"
    if status == 429 and not ("RateLimit-Policy" in headers and "RateLimit" in headers):
        yield "RateLimit-Policy or RateLimit is missing"
    challenge = headers.get("WWW-Authenticate", "")
    if (status == 401) != bool(challenge) and not (status == 403 and INSUFFICIENT_SCOPE in challenge):
        yield "WWW-Authenticate is missing or unexpected"
    if (status == 405) != ("Allow" in headers):
        yield "Allow is missing or unexpected"


def operation_of(method: str, path: str) -> protocol.Operation | None:
    """Return the operation that a request calls, if there is one."""
    path = path.rstrip("/") if path == operations.CONTRACT else path
    found = [
        operation
        for operation in protocol.OPERATIONS.values()
        if operation.method == method.replace("HEAD", "GET")
        and re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(operation.path)), path)
    ]
    return found[-1] if found else None


# Socket.IO


@lru_cache(4096)  # a broadcast is the same text for all clients
def check_event(text: str) -> tuple[str, ...]:
    """Return what is wrong with the text of an event that the server sends: `["name",payload]`."""
    name, *payloads = protocol.loads(text)
    event = protocol.EVENTS.get(name)
    if event is None or event.direction != "server_to_client":
        return (f"{name} is not an event of the server",)
    if not 1 <= len(payloads) <= (2 if event.offset else 1):
        return (f"{name} has {len(payloads)} payloads",)
    schemas = (event.schema, event.offset)
    return tuple(text for schema, payload in zip(schemas, payloads, strict=False) for text in errors(schema, payload))


class Conversation:
    """What a server received from one client, and what it may therefore send to it."""

    def __init__(self) -> None:
        self._asked: dict[str, list[tuple[protocol.Event | None, bool]]] = {}  # by acknowledgement id
        self._auth_fits, self._wants_recovery = True, False
        self._left: Counter[str] = Counter()  # of answers that may still come

    def note_received(self, packet: Any) -> None:
        """Note a packet that the client sent."""
        kind, namespace, id_, text = _parts(packet)
        if kind == "0":
            payload = _loaded(text) if text else None
            self._auth_fits = namespace in ("", protocol.NAMESPACE) and fits("connect_auth", payload)
            self._wants_recovery = isinstance(payload, dict) and payload.get("recovery") is True
        else:
            content = _loaded(text) if kind == "2" else None
            name, *payloads = content if isinstance(content, list) and content else [None]
            event = protocol.EVENTS.get(name) if isinstance(name, str) else None
            if event is not None and event.direction == "client_to_server":
                valid = name == protocol.PING or (len(payloads) == 1 and fits(event.schema, payloads[0]))
                self.note_event(event, valid, id_)
            else:
                self.note_event(None, False, id_)

    def note_event(self, event: protocol.Event | None, valid: bool, id_: str) -> None:
        """Note an event that the client sent; None is an unknown one."""
        if event is not None and valid:
            self._left[event.name] += 1
        if id_:
            self._asked.setdefault(str(int(id_)), []).append((event, valid))

    def check_sent(self, packet: Any) -> Iterator[str]:
        """Yield what is wrong with a packet that the server sends."""
        kind, _, id_, text = _parts(packet)
        match kind:
            case "0":
                if not self._auth_fits:
                    yield "an invalid CONNECT was accepted"
                if "pid" in protocol.loads(text) and not self._wants_recovery:
                    yield "a client that did not ask for recovery got a pid"
            case "2":
                yield from check_event(text)
                if len(protocol.loads(text)) > 2 and not self._wants_recovery:
                    yield "a client that did not ask for recovery got an offset"
                yield from self._check_was_asked(*protocol.loads(text)[:2])
            case "3":
                yield from self._check_acknowledgement(self._asked.get(id_, []), protocol.loads(text))
            case "4":
                yield from errors(events.CONNECT_ERROR.schema, protocol.loads(text))
                code = protocol.loads(text)["data"]["code"] if text.startswith("{") else ""
                if code not in {error.code for error in events.CONNECT.errors}:
                    yield f"connect_error has the code {code!r}"
            case _:
                yield "a packet of a type that this server does not send"

    def _check_acknowledgement(
        self, asked: list[tuple[protocol.Event | None, bool]], payloads: list[Any]
    ) -> Iterator[str]:
        """Remove the event that this answers from those sent under its id, and yield what is wrong with the answer.

        A client that gives one id to several events gets each answer when it is ready: a refusal comes before a save.
        """
        if not asked:
            yield "an acknowledgement without an event"
            return
        refused = isinstance(payloads, list) and any(isinstance(one, dict) and "code" in one for one in payloads)
        wrong = [list(check_acknowledgement(*one, payloads)) for one in asked]
        nearest = min(range(len(asked)), key=lambda at: (bool(wrong[at]), asked[at][1] is refused))
        del asked[nearest]
        yield from wrong[nearest]

    def _check_was_asked(self, name: str, payload: Any = None) -> Iterator[str]:
        """Yield if an answer was not due: an invalid update was accepted."""
        due = {protocol.BALANCE_ACK: protocol.BALANCE_UPDATE, protocol.PONG: protocol.PING}.get(name)
        if name == protocol.BALANCE_ERROR and isinstance(payload, dict) and payload.get("code") not in BY_EVENT:
            yield f"balance:error has the code {payload.get('code')!r}"
        if due is not None:
            if not self._left[due]:
                yield f"{name} does not answer anything that was sent"
            else:
                self._left[due] -= 1


def check_acknowledgement(event: protocol.Event | None, was_valid: bool, payloads: list[Any]) -> Iterator[str]:
    """Yield what is wrong with an acknowledgement of an event whose payload was valid, or was not."""
    if not isinstance(payloads, list) or len(payloads) != 1:
        yield f"an acknowledgement is not one payload but {payloads!r}"
        return
    names = (
        event.answered_by if event else (protocol.BALANCE_ERROR, protocol.PONG)
    )  # of an event that is not in the table
    wrong = [errors(protocol.EVENTS[name].schema, payloads[0]) for name in names]
    if all(wrong):
        yield from min(wrong, key=len)
    elif isinstance(payloads[0], dict) and "code" in payloads[0]:
        code = payloads[0]["code"]
        if event is not None and protocol.ERRORS[code] not in event.errors:
            yield f"{code} is not among the errors of {event.name}"
        if was_valid and event is protocol.EVENTS[protocol.BALANCE_UPDATE] and code not in BEYOND_THE_SCHEMA:
            yield f"a valid payload was refused by {code}"
    elif not was_valid:
        yield "an invalid payload was accepted"


def _loaded(text: str) -> Any:
    try:
        return protocol.loads(text)
    except protocol.MalformedJson:
        return text


def _parts(packet: Any) -> tuple[str, str, str, str]:
    """Parse a Socket.IO packet: its type, namespace, acknowledgement id and the JSON after them."""
    found = PACKET.fullmatch(packet) if isinstance(packet, str) else None
    return found.groups(default="") if found else ("", "", "", "")  # type: ignore[return-value]


# Server-sent events


@lru_cache(4096)
def check_stream(sent: bytes) -> tuple[str, ...]:
    """Return what is wrong with whole events of a stream; the head of the response may come before them."""
    head, _, rest = sent.partition(b"\r\n\r\n") if sent.startswith(b"HTTP/") else (b"", b"", sent)
    reply = operations.OPERATIONS["getStream"].responses[200]
    found = []
    if head and f"\r\nContent-Type: {reply.media_type}; charset=utf-8\r\n" not in head.decode("latin1"):
        found.append("the head of a stream names another media type")
    for event in read_events(rest):
        schema = reply.events.get(event.name)
        found += [f"{event.name} is not an event of a stream"] if schema is None else errors(schema, event.data)
        if event.id is not None:
            found += errors("position_token", event.id)
    return tuple(found)


# The entries and exits of the service


@cache
def install() -> None:
    """Check the traffic of every service of this process from now on."""
    conversations: WeakKeyDictionary[AsyncSocket, Conversation] = WeakKeyDictionary()
    send, broadcast = Sender.send, Sender.broadcast
    receive, finish = SocketServer.receive, JsonHandler.finish
    on_update, write = EventHandlers.on_update, SaveRequest.write
    in_slow_path: set[Session] = set()  # those with a packet in the slow path

    def conversation(session: Session) -> Conversation:
        return conversations.setdefault(session.socket, Conversation())

    def check_packets(session: Session, packets: EncodedPackets) -> None:
        for packet in packets.packets:
            if packet.packet_type == MESSAGE and not session.has_ended:
                _report(conversation(session).check_sent(packet.data), packet.data)

    @wraps(send)
    def checked_send(self: Sender, session: Session, packets: EncodedPackets) -> None:
        check_packets(session, packets)
        send(self, session, packets)

    @wraps(broadcast)
    def checked_broadcast(self: Sender, packets: EncodedPackets, group: Collection[Session]) -> None:
        for session in group:
            check_packets(session, packets)
        broadcast(self, packets, group)

    @wraps(receive)
    async def checked_receive(self: SocketServer, session: Session, data: Any) -> None:
        conversation(session).note_received(data)
        in_slow_path.add(session)
        try:
            await receive(self, session, data)
        finally:
            in_slow_path.discard(session)

    @wraps(on_update)
    def checked_update(self: EventHandlers, session: Session, ack_id: int | None, payloads: Any) -> None:
        if session not in in_slow_path:
            (update,) = payloads
            event = protocol.EVENTS[protocol.BALANCE_UPDATE]
            id_ = "" if ack_id is None else str(ack_id)
            conversation(session).note_event(event, fits(event.schema, protocol.loads(protocol.dumps(update))), id_)
        on_update(self, session, ack_id, payloads)

    @wraps(finish)
    def checked_finish(self: JsonHandler, chunk: Any = None) -> Any:
        request = self.request
        body = b"".join([*self._write_buffer, chunk.encode() if isinstance(chunk, str) else chunk or b""])
        done = finish(self, chunk)
        if self.get_status() != 101:
            found = check_answer(
                request.method or "", request.uri or "", bytes(self._body), self.get_status(), self._headers,
                b"" if self.get_status() in (204, 304) else body,
            )  # fmt: skip
            _report(found, f"{request.method} {request.path}: {body[:300]!r}")
        return done

    @wraps(write)
    def checked_write(self: SaveRequest, status: int, headers: HTTPHeaders, body: bytes) -> None:
        write(self, status, headers, body)
        found = check_answer("POST", SNAPSHOTS, bytes(self.body), status, headers, body)
        _report(found, f"POST {SNAPSHOTS}: {body[:300]!r}")

    _install_in_streams()
    SaveRequest.write = checked_write  # type: ignore[method-assign]
    Sender.send, Sender.broadcast = checked_send, checked_broadcast  # type: ignore[method-assign]
    SocketServer.receive = checked_receive  # type: ignore[method-assign]
    EventHandlers.on_update, JsonHandler.finish = checked_update, checked_finish  # type: ignore[method-assign]


def _install_in_streams() -> None:
    send, end, broadcast = EventStream.send, EventStream.end, StreamHub._broadcast

    @wraps(send)
    def checked_send(self: EventStream, data: bytes) -> Any:
        _report(check_stream(data), repr(data))
        return send(self, data)

    @wraps(end)
    def checked_end(self: EventStream, last: bytes) -> None:
        _report(check_stream(last), repr(last))
        end(self, last)

    @wraps(broadcast)
    def checked_broadcast(self: StreamHub, streams: Sequence[EventStream], events: bytes) -> None:
        _report(check_stream(events), repr(events))
        broadcast(self, streams, events)

    EventStream.send, EventStream.end = checked_send, checked_end  # type: ignore[method-assign]
    StreamHub._broadcast = checked_broadcast  # type: ignore[method-assign]


def _report(found: Iterable[str], what: str) -> None:
    for wrong in found:
        complain(f"{wrong} in {what[:400]}")
