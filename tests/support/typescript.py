"""Makes protocol/types.d.ts from the schemas and the table of events: python -m tests.support.typescript

The declarations of the payloads are json-schema-to-typescript's (tests/js/make-types.mjs), those of the events are
written here, in the shape that the typed client of socket.io-client wants.
"""

from __future__ import annotations

import json

import protocol
from protocol.bundle import component_schemas
from protocol.operations import STREAM as STREAM_PATH
from tests.support.node import FOLDER, ask_node
from tests.support.repository import ROOT

FILE = ROOT / "protocol" / "types.d.ts"
COMMAND = "python -m tests.support.typescript"
ANNOTATIONS = {"$schema", "$id", "title", "description", "examples"}

HEAD = f"""\
/**
 * The Balance Snapshot System for TypeScript: every request, reply and payload under the title of its schema, and the
 * events as the typed client of socket.io-client expects them.
 *
 *     import {{ io, type Socket }} from "socket.io-client";
 *     import type {{ ClientToServerEvents, ServerToClientEvents }} from "./types.d.ts";
 *
 *     const socket: Socket<ServerToClientEvents, ClientToServerEvents> = io(url, {{ path: "/api/socket.io" }});
 *
 * JavaScript reads and writes an amount as a binary float of about 16 digits. A program that needs more must parse and
 * write the JSON itself.
 *
 * Generated from the schemas and the table of events by `{COMMAND}`; do not edit.
 */
"""
ACKNOWLEDGED = """\
/**
 * The events that a client may send, with a required callback, so that `emitWithAck` returns a promise of the reply by
 * its type. The same socket can have either type:
 *
 *     const acknowledged: Socket<ServerToClientEvents, AcknowledgedEvents> = socket;
 *     const reply = await acknowledged.emitWithAck("balance:update", update);
 *
 * `timeout(…).emitWithAck` returns a promise of any in either case. Give the reply its type there:
 *
 *     const reply: BalanceAck | BalanceError = await socket.timeout(6000).emitWithAck("balance:update", update);
 */
"""
CLIENT_TO_SERVER = """\
/**
 * The events that a client may send, with an optional callback for the reply. The reply is also sent as an event.
 *
 * Because the callback is optional, `emitWithAck` returns a promise of any; see AcknowledgedEvents. With the option
 * ackTimeout, socket.io-client passes an error to the callback as its first argument, as after `timeout(…)`, but its
 * types do not include it: use `emitWithAck` or `timeout(…)` with that option.
 */
"""
SERVER_TO_CLIENT = """\
/**
 * The events that a client may listen to, beside those of socket.io itself. connect_error has a ConnectError if the
 * server has rejected the connection, and otherwise an error of the network.
 */
"""
STREAM = f"""\
/**
 * The data of each event of GET {STREAM_PATH}, as JSON:
 *
 *     const stream = new EventSource(url + "{STREAM_PATH}");
 *     stream.addEventListener("balance:snapshot", (event) => {{
 *       const snapshot: StreamEvents["balance:snapshot"] = JSON.parse(event.data);
 *     }});
 */
"""


def generate() -> str:
    """Return what protocol/types.d.ts should be."""
    return "\n".join([
        HEAD,
        _payloads(),
        ACKNOWLEDGED + _interface("AcknowledgedEvents", "client_to_server", callback_required=True),
        CLIENT_TO_SERVER + _interface("ClientToServerEvents", "client_to_server"),
        SERVER_TO_CLIENT + _interface("ServerToClientEvents", "server_to_client"),
        STREAM + _stream(),
    ])  # fmt: skip


def _payloads() -> str:
    """Declare every schema, each under its title."""
    return ask_node(FOLDER / "make-types.mjs", protocol.dumps(component_schemas())).rstrip("\n") + "\n"


def _interface(name: str, direction: str, *, callback_required: bool = False) -> str:
    """Declare the events that go in one direction."""
    events = [event for event in protocol.EVENTS.values() if event.direction == direction]
    lines = [f"  {json.dumps(event.name)}: ({_parameters(event, callback_required)}) => void;" for event in events]
    return "\n".join([f"export interface {name} {{", *lines, "}\n"])


def _stream() -> str:
    """Declare the events of the stream."""
    events = protocol.OPERATIONS["getStream"].responses[200].events
    return "\n".join([
        "export interface StreamEvents {",
        *(f"  {json.dumps(name)}: {_title(schema)};" for name, schema in events.items()),
        "}\n",
    ])  # fmt: skip


def _parameters(event: protocol.Event, callback_required: bool) -> str:
    """Return what is sent with an event as the parameters of a function, as the types of socket.io expect it.

    An optional callback is not written as `ack?`: after `timeout(…)` the types of socket.io-client would not put the
    error before its reply, and `emitWithAck` would accept any arguments. A union of both lists works everywhere except
    for the reply of `emitWithAck`, which is any unless the last argument is always the callback.
    """
    # A payload of any type is omitted: TypeScript could not distinguish it from the callback.
    anything = protocol.schema(event.schema).keys() <= ANNOTATIONS
    payload = [] if anything else [f"payload: {_title(event.schema)}"]
    if not event.answered_by:
        return ", ".join([*payload, *([f"offset?: {_title(event.offset)}"] if event.offset else [])])
    reply = " | ".join(_title(protocol.EVENTS[answer].schema) for answer in event.answered_by)
    answered = [*payload, f"ack: (reply: {reply}) => void"]
    if callback_required:
        return ", ".join(answered)
    return f"\n    ...args:\n      | [{', '.join(payload)}]\n      | [{', '.join(answered)}]\n  "


def _title(schema: str) -> str:
    return str(protocol.schema(schema)["title"])


if __name__ == "__main__":
    FILE.write_text(generate(), "utf-8")
