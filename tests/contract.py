"""Holds every word that passes between a server and its clients to the contract, in whatever test it passes.

`install` puts a look into the doors of the service: each HTTP request and answer, each Socket.IO packet in and out.
What is not as the tables and schemas of `protocol` have it is logged as an error, which fails the test (see the
fixture `silence`, and `Process` for a server in a process of its own). Replies and events are open, so that they may
grow; here they are closed: a field that no schema names is against the contract too.
"""

from __future__ import annotations

import gzip
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, lru_cache, wraps
from typing import Any
from weakref import WeakKeyDictionary

import jsonschema_rs
from engineio.packet import MESSAGE, Packet

import protocol
from balance.realtime.engine import Engine
from balance.realtime.server import SocketServer
from balance.web import Answers
from protocol import events, operations, registry

log = logging.getLogger("balance.contract")

AGAINST = "against the contract"  # what each complaint begins with
PACKET = re.compile(r"([0-6])(?:(/[^,]*),)?([0-9]*)(.*)", re.DOTALL)
# By what an update that fits its schema may still be refused.
BEYOND_THE_SCHEMA = {"conflict", "payload_too_large", "busy", "unavailable", "internal_error"}
NOT_BY_OPERATIONS = {"not_found", "method_not_allowed", "forbidden"}  # what may be told at any address


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
    """Say what is wrong with something that the server sends under this schema."""
    validator = _validators()[name]
    if validator.is_valid(payload):
        return []
    return [
        f"{name}: {'.'.join(map(str, error.instance_path))}: {error.message}"
        for error in validator.iter_errors(payload)
    ]


def fits(name: str, payload: object) -> bool:
    """Tell whether something that a client sent fits its schema, by the validator that `check` asks second."""
    return next(registry.slow(name).iter_errors(payload), None) is None


# HTTP


def check_answer(
    method: str, path: str, body: bytes, status: int, headers: Mapping[str, str], answer: bytes
) -> Iterator[str]:
    """Yield what is wrong with an answer of the server."""
    operation = operation_of(method, path)
    if status >= 400:
        yield from _check_refusal(operation, status, headers, answer)
    elif operation is None:
        if method != "OPTIONS" and not path.startswith((protocol.SOCKET_PATH, operations.DOCS)):
            yield f"there is no operation, and yet it was answered by {status}"
    elif status not in operation.replies:
        yield f"{status} is not among its replies"
    else:
        reply = operation.replies[status]
        yield from (f"has no header {name}" for name in reply.headers if name not in headers)
        if reply.media_type and headers["Content-Type"].partition(";")[0] != reply.media_type:
            yield f"is of the media type {headers['Content-Type']}"
        if reply.schema:
            zipped = headers.get("Content-Encoding") == "gzip"
            yield from errors(reply.schema, protocol.loads(gzip.decompress(answer) if zipped else answer))
        if not reply.media_type and answer:
            yield "has a body"
        if operation.body and not fits(operation.body, protocol.loads(body)):
            yield "took a body that does not fit its schema"


def _check_refusal(
    operation: protocol.Operation | None, status: int, headers: Mapping[str, str], answer: bytes
) -> Iterator[str]:
    refusal = protocol.loads(answer)
    yield from errors("error_reply", refusal)
    error = protocol.ERRORS[refusal["code"]]
    if error.status != status:
        yield f"{error.code} has the status {status}"
    if operation is not None and error not in operation.errors and error.code not in NOT_BY_OPERATIONS:
        yield f"{error.code} is not among its errors"
    if error.temporary != ("Retry-After" in headers):
        yield "Retry-After stands where it should not, or is missing"
    if (status == 405) != ("Allow" in headers):
        yield "Allow stands where it should not, or is missing"


def operation_of(method: str, path: str) -> protocol.Operation | None:
    """Find the operation that a request asks for."""
    found = [
        operation
        for operation in protocol.OPERATIONS.values()
        if operation.method == method.replace("HEAD", "GET")
        and re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(operation.path).removesuffix("/")) + "/?", path)
    ]
    return found[-1] if found else None


# Socket.IO


@lru_cache(4096)  # a broadcast is the same text for everybody
def check_event(text: str) -> tuple[str, ...]:
    """Say what is wrong with the text of an event that the server sends: `["name",payload]`."""
    name, *payloads = protocol.loads(text)
    event = protocol.EVENTS.get(name)
    if event is None or event.direction != "server_to_client":
        return (f"{name} is no event of the server's",)
    if len(payloads) != 1:
        return (f"{name} has {len(payloads)} payloads",)
    return tuple(errors(event.schema, payloads[0]))


def check_acknowledgement(event: protocol.Event, was_valid: bool, payloads: list[Any]) -> Iterator[str]:
    """Yield what is wrong with an acknowledgement of an event whose payload was valid, or was not."""
    if len(payloads) != 1:
        yield f"an acknowledgement has {len(payloads)} payloads"
        return
    wrong = [errors(protocol.EVENTS[name].schema, payloads[0]) for name in event.answered_by]
    if all(wrong):
        yield from min(wrong, key=len)
    elif isinstance(payloads[0], dict) and "code" in payloads[0]:
        code = payloads[0]["code"]
        if protocol.ERRORS[code] not in event.errors:
            yield f"{code} is not among the errors of {event.name}"
        if was_valid and code not in BEYOND_THE_SCHEMA:
            yield f"a payload that fits its schema was refused by {code}"
    elif not was_valid:
        yield f"a payload of {event.name} that does not fit its schema was taken"


class Conversation:
    """What a server has been asked and not yet acknowledged."""

    def __init__(self) -> None:
        self._asked: dict[tuple[str, str], tuple[protocol.Event, bool]] = {}

    def hear(self, session: str, packet: Any) -> None:
        """Note an event that a client sent with an acknowledgement id."""
        kind, namespace, id_, text = _parts(packet)
        if kind != "2" or not id_ or namespace not in (None, protocol.NAMESPACE):
            return
        try:
            name, *payloads = protocol.loads(text)
        except (protocol.MalformedJson, TypeError, ValueError):
            return
        event = protocol.EVENTS.get(name) if isinstance(name, str) else None
        if event is not None and event.direction == "client_to_server":
            valid = name == protocol.PING or (len(payloads) == 1 and fits(event.schema, payloads[0]))
            self._asked[session, id_] = event, valid

    def say(self, session: str, packet: Any) -> Iterable[str]:
        """Say what is wrong with a packet that the server sends."""
        kind, _, id_, text = _parts(packet)
        match kind:
            case "2":
                return check_event(text)
            case "3" if (session, id_) in self._asked:
                return check_acknowledgement(*self._asked.pop((session, id_)), protocol.loads(text))
            case "4":
                return errors(events.CONNECT_ERROR.schema, protocol.loads(text))
        return ()


def _parts(packet: Any) -> tuple[str, str | None, str, str]:
    """Take a Socket.IO packet apart: its type, namespace, acknowledgement id and the JSON after them."""
    found = PACKET.fullmatch(packet) if isinstance(packet, str) else None
    return found.groups() if found else ("", None, "", "")  # type: ignore[return-value]


# The doors


@cache
def install() -> None:
    """Look at everything that passes through a service of this process, from now on."""
    conversations: WeakKeyDictionary[Engine, Conversation] = WeakKeyDictionary()
    deliver, hear, finish = Engine.deliver, SocketServer._handle_eio_message, Answers.finish

    @wraps(deliver)
    def checked_deliver(self: Engine, sid: str, *packets: Packet) -> None:
        for packet in packets:
            if packet.packet_type == MESSAGE:
                _report(conversations.setdefault(self, Conversation()).say(sid, packet.data), packet.data)
        deliver(self, sid, *packets)

    @wraps(hear)
    async def checked_hear(self: SocketServer, eio_sid: str, data: Any) -> None:
        conversations.setdefault(self.eio, Conversation()).hear(eio_sid, data)
        await hear(self, eio_sid, data)

    @wraps(finish)
    def checked_finish(self: Answers, chunk: Any = None) -> Any:
        request = self.request
        body = b"".join([*self._write_buffer, chunk.encode() if isinstance(chunk, str) else chunk or b""])
        done = finish(self, chunk)
        if self.get_status() != 101:
            found = check_answer(
                request.method or "", request.path, bytes(self._body), self.get_status(), self._headers,
                b"" if self.get_status() in (204, 304) else body,
            )  # fmt: skip
            _report(found, f"{request.method} {request.path}: {body[:300]!r}")
        return done

    Engine.deliver, SocketServer._handle_eio_message, Answers.finish = checked_deliver, checked_hear, checked_finish  # type: ignore[method-assign]


def _report(found: Iterable[str], what: str) -> None:
    for wrong in found:
        complain(f"{wrong} in {what[:400]}")
