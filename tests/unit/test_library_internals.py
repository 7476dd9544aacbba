"""The names inside python-engineio, python-socketio and Tornado that the service relies on, each pinned by its name.

None of them is documented, so that any release may change them. A name that an upgrade removes fails here by its name,
and so does a private name that the code uses and no table lists. What the libraries do with these names is tested in
tests/integration/test_library_*.py, test_fast_update_parity.py, test_http_connection.py and test_listener.py, and in
tests/unit/test_frames.py and test_loop_budget.py.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import engineio
import pytest
import socketio
from engineio.async_drivers.tornado import WebSocket
from engineio.async_socket import AsyncSocket
from tornado.http1connection import HTTP1Connection, HTTP1ServerConnection
from tornado.httpserver import HTTPServer, _HTTPRequestContext
from tornado.httputil import HTTPServerRequest
from tornado.iostream import IOStream, SSLIOStream
from tornado.web import RequestHandler
from tornado.websocket import WebSocketHandler, WebSocketProtocol13

from balance.realtime.engine import Engine
from balance.realtime.frames import FrameReader
from balance.realtime.handler import EngineHandler
from balance.realtime.server import ClientManager, SocketServer
from balance.web.http_connection import ConnectionContext, Exchange, ServerConnection
from balance.web.listener import BudgetedConnection, HttpListener
from balance.web.request_stream import RequestStream, TlsStream
from tests.support.repository import ROOT

# By class: the private names, then those that are public but not documented.
NAMES: dict[type, set[str]] = {
    engineio.AsyncServer: {"_async", "_log_error_once", "sockets", "start_background_task", "create_queue"},
    AsyncSocket: {
        *("_send_ping", "close", "closed", "closing", "connected", "last_ping", "poll", "queue", "receive"),
        *("schedule_ping", "sid", "upgraded", "upgrading"),
    },
    WebSocket: {"close", "send", "wait"},
    socketio.AsyncServer: {
        *("_engineio_server_class", "_handle_connect", "_handle_disconnect", "_handle_eio_connect"),
        *("_handle_eio_disconnect", "_handle_eio_message", "_send_packet", "environ", "packet_class"),
    },
    socketio.AsyncManager: {"basic_enter_room", "rooms", "sid_from_eio_sid"},
    HTTPServerRequest: {"_body_future"},
    RequestHandler: {"_execute", "_headers", "_write_buffer", "ui"},
    WebSocketHandler: {"_detach_stream", "ws_connection"},
    WebSocketProtocol13: {
        *("_abort", "_fragmented_message_buffer", "_handle_message", "_read_bytes", "_receive_frame"),
        *("_receive_frame_loop", "_run_callback", "_wire_bytes_in", "_write_frame", "client_terminated"),
        *("mask_outgoing", "params", "server_terminated"),
    },
    HTTP1Connection: {
        *("_can_keep_alive", "_clear_callbacks", "_deliver_body", "_disconnect_on_finish", "_finish_future"),
        *("_finish_request", "_max_body_size", "_on_connection_close", "_parse_headers", "_read_chunked_body"),
        *("_read_finished", "_read_fixed_body", "_request_headers", "_request_start_line", "_response_start_line"),
        "_write_finished",
    },
    HTTP1ServerConnection: {"_server_request_loop"},
    IOStream: {
        *("_consume", "_find_read_pos", "_handle_read", "_read_buffer", "_read_buffer_size", "_read_from_buffer"),
        *("_read_future", "_read_regex", "_state", "_write_buffer"),
    },
    SSLIOStream: {"_do_ssl_handshake", "_handshake_reading", "_handshake_writing", "_is_connreset", "_ssl_accepting"},
    HTTPServer: {"_connections", "_handle_connection", "_handlers", "_sockets", "conn_params"},
    _HTTPRequestContext: {"_apply_xheaders"},
}
# By module: private functions and classes that are imported.
IMPORTED = {"tornado.httpserver": {"_HTTPRequestContext"}, "tornado.util": {"_websocket_mask"}}
# Names of our own that are private names of a library's class as well, in modules with no subclass of it.
OWN = {"_handlers"}
SUBCLASSES: dict[type, type] = {
    Engine: engineio.AsyncServer,
    SocketServer: socketio.AsyncServer,
    ClientManager: socketio.AsyncManager,
    EngineHandler: WebSocketHandler,
    FrameReader: WebSocketProtocol13,
    Exchange: HTTP1Connection,
    ServerConnection: HTTP1ServerConnection,
    BudgetedConnection: HTTP1ServerConnection,
    RequestStream: IOStream,
    TlsStream: SSLIOStream,
    ConnectionContext: _HTTPRequestContext,
    HttpListener: HTTPServer,
}
SOURCES = [path for folder in ("realtime", "web") for path in sorted((ROOT / "balance" / folder).rglob("*.py"))]


@cache
def names_of(library_class: type) -> set[str]:
    """Return what a class and its bases define: methods, class attributes, and what their methods assign to `self`."""
    names: set[str] = set()
    for one in inspect.getmro(library_class)[:-1]:
        names |= vars(one).keys() | inspect.get_annotations(one).keys()
        if one.__module__.partition(".")[0] in ("engineio", "socketio", "tornado"):
            names |= set(re.findall(r"\bself\.(\w+)(?:: [^=\n]+)? = ", inspect.getsource(one)))
    return names


def private_names(path: Path) -> Iterator[str]:
    """Yield the private names that a module uses as attributes, defines as methods or imports."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        match node:
            case ast.Attribute(attr=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names = [name]
            case ast.ImportFrom(names=aliases):
                names = [alias.name for alias in aliases]
            case _:
                names = []
        yield from (name for name in names if name.startswith("_") and not name.startswith("__"))


@pytest.mark.parametrize(
    ("library_class", "name"),
    [(library_class, name) for library_class, names in NAMES.items() for name in sorted(names)],
    ids=lambda value: value.__name__ if isinstance(value, type) else value,
)
def test_the_library_still_has_this_name(library_class: type, name: str) -> None:
    assert name in names_of(library_class)


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in IMPORTED.items() for name in names])
def test_the_module_still_has_this_name(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name)


def test_the_tables_list_every_private_name_of_a_library_that_is_used() -> None:
    listed = OWN.union(*NAMES.values(), *IMPORTED.values())
    of_libraries = set().union(*map(names_of, NAMES), *IMPORTED.values())
    found = {(path.name, name) for path in SOURCES for name in private_names(path)}
    assert not sorted(one for one in found if one[1] in of_libraries and one[1] not in listed)
    used = {name for _, name in found}
    assert not sorted(name for name in listed if name.startswith("_") and name not in used), "no longer used"


@pytest.mark.parametrize(("own", "library_class"), SUBCLASSES.items(), ids=lambda one: one.__name__)
def test_an_override_has_as_many_parameters_as_what_it_overrides(own: type, library_class: type) -> None:
    for name, method in vars(own).items():
        overridden = getattr(library_class, name, None)
        if not name.startswith("_") or name.startswith("__") or not inspect.isfunction(overridden):
            continue
        parameters = [len(inspect.signature(one).parameters) for one in (method, overridden)]
        assert (name, parameters[0]) == (name, parameters[1])
