"""The AsyncAPI 3.0 document of Socket.IO, built from the tables of events and errors and from the schemas.

AsyncAPI describes the server's side: the server *receives* what a client sends. The one channel is the one namespace. A
message is an event, and its payload is the first argument of the event. A *reply* is sent both as the acknowledgement
and as an event.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from protocol import bundle, registry
from protocol.errors import PayloadTooLarge, ServiceError
from protocol.events import (
    CONNECT,
    CONNECT_ERROR,
    EVENTS,
    HANDSHAKE_ERRORS,
    NAMESPACE,
    SOCKET_PATH,
    Event,
)
from protocol.limits import Limits

Json = dict[str, Any]

MESSAGES = "#/components/messages"
CHANNEL = "#/channels/root"
ALL_EVENTS = (CONNECT, CONNECT_ERROR, *EVENTS.values())

TOKEN = """\
A token of `server.py token create`, or a JWT of the identity provider that the server trusts: as `auth.token` of the
CONNECT packet, or in the header Authorization of the handshake. A server that listens on loopback only may need none.\
"""

INTRODUCTION = f"""\
Save balance snapshots, and receive every snapshot that any client saves, in one order that is the same for all.

Connect with socket.io-client 3 or 4 and the option `path: "{SOCKET_PATH}"`. Each event has one payload. The server
answers each event of a client with an event, and also with the acknowledgement if the client gave a callback.

A server may need a token, in the option `auth`: `auth: {{token: "bal_writer_…"}}`. When the token is revoked or
expires, the client gets balance:error with the code unauthorized, and its connection is closed.

A client that connects again misses nothing if it sends its position in the option `auth`: `after`, the `seq` of the
last snapshot that it has seen, and `epoch`. If `connected` has `recovered: true`, the missed snapshots follow in order,
before the new ones; otherwise it has the `reason`. socket.io-client 4.6 or newer resumes by itself with
`auth: {{recovery: true}}`: CONNECT is answered with `pid` beside `sid`, connected and balance:snapshot have a second
argument (`x-offset`), and the client sends both when it connects again.

Amounts are exact, with any number of digits. JavaScript reads them as binary floats of about 16 digits. They have the
format `double` here because generated clients use a 32-bit number where there is no format, which keeps 7 digits. A
client that needs all digits must read them with a decimal type. Integers have the format `int64`.
"""


def asyncapi(version: str, limits: Limits) -> Json:
    """Build the document of a server; `version` is the version of the contract."""
    names = [_key(one) for one in ALL_EVENTS]
    messages = {_key(one): _message(one) for one in ALL_EVENTS}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Balance Snapshot System", "version": version, "description": INTRODUCTION},
        "defaultContentType": "application/json",
        "servers": {"this": _server(limits)},
        "channels": {
            "root": {
                "address": NAMESPACE,
                "title": f"The namespace {NAMESPACE}",
                "description": "The only namespace, and the one that clients join by default.",
                "messages": {name: {"$ref": f"{MESSAGES}/{name}"} for name in names},
                "bindings": {"ws": _binding()},
                "x-handshake-errors": _errors(HANDSHAKE_ERRORS),
            }
        },
        "operations": {_key(event): _operation(event, limits) for event in ALL_EVENTS},
        "components": {
            "schemas": bundle.used_components(messages),
            "messages": messages,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": TOKEN}},
        },
    }


def _server(limits: Limits) -> Json:
    return {
        "host": "{host}",
        "pathname": SOCKET_PATH,
        "protocol": "ws",
        "description": "Socket.IO over WebSocket and over HTTP long polling.",
        "security": [{"$ref": "#/components/securitySchemes/token"}],
        "variables": {
            "host": {
                "default": limits.address,
                "description": "Host and port of the server.",
            }
        },
        "x-socketio": {
            "path": SOCKET_PATH,
            "namespace": NAMESPACE,
            "protocol": 5,
            "engineioProtocol": 4,
            "transports": ["websocket", "polling"],
            "auth": bundle.reference(CONNECT.schema),
        },
        "x-heartbeat": {
            "description": "The server pings and the client library answers. A session without an answer is closed.",
            "intervalSeconds": limits.ping_interval_s,
            "timeoutSeconds": limits.ping_timeout_s,
        },
    }


def _binding() -> Json:
    """Describe the query of the connection's URL, which a client library sets."""
    query = {
        "type": "object",
        "required": ["EIO", "transport"],
        "properties": {
            "EIO": {"type": "string", "const": "4", "description": "The version of the Engine.IO protocol."},
            "transport": {"type": "string", "const": "websocket", "description": "polling for HTTP long polling."},
        },
    }
    return {"method": "GET", "query": query, "bindingVersion": "0.1.0"}


def _operation(event: Event, limits: Limits) -> Json:
    received = event.direction == "client_to_server"
    described: Json = {
        "action": "receive" if received else "send",
        "channel": {"$ref": CHANNEL},
        "title": event.name,
        "summary": registry.schema(event.schema)["description"],
        "messages": [_on_channel(event.name)],
    }
    if event.answered_by:
        described["reply"] = {
            "channel": {"$ref": CHANNEL},
            "messages": [_on_channel(name) for name in event.answered_by],
        }
    if event.errors:
        described["x-errors"] = _errors(event.errors)
    if PayloadTooLarge in event.errors:
        described["x-bytes-max"] = limits.update_bytes_max
    return described


def _message(event: Event) -> Json:
    schema = registry.schema(event.schema)
    return {
        "name": event.name,
        "title": schema["title"],
        "summary": schema["description"],
        "contentType": "application/json",
        "payload": bundle.reference(event.schema),
        "examples": [{"payload": example} for example in schema["examples"] if example is not None],
        **({"x-offset": bundle.reference(event.offset)} if event.offset else {}),
    }


def _errors(errors: Iterable[type[ServiceError]]) -> list[Json]:
    return [
        {"code": error.code, "status": error.status, "description": f"{error.message()}.", "temporary": error.temporary}
        | ({"retryAfter": error.retry_after_s} if error.temporary else {})
        for error in errors
    ]


def _on_channel(name: str) -> dict[str, str]:
    event = next(one for one in ALL_EVENTS if one.name == name)
    return {"$ref": f"{CHANNEL}/messages/{_key(event)}"}


def _key(event: Event) -> str:
    """Return the name of an event within the document: `balanceUpdate` for `balance:update`."""
    first, *more = event.name.replace(":", "_").split("_")
    return first + "".join(part.title() for part in more)
