"""The table of REST operations: the path, the parameters and every possible response of each.

It is for REST what `events` is for Socket.IO. The server reads its paths here, `openapi` describes each operation from
this table, and the tests compare every response of the server with it.
"""

from __future__ import annotations

from protocol import bodies, registry
from protocol.common_operations import HEAD_ERRORS, READY, document, probe
from protocol.errors import (
    Busy,
    Conflict,
    Forbidden,
    InternalError,
    InvalidPayload,
    MalformedJson,
    NotFound,
    PayloadTooLarge,
    PositionPruned,
    PositionUnknown,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
)
from protocol.headers import RATE_LIMIT
from protocol.operation import JSON, NDJSON, Operation, Response

SNAPSHOTS = "/api/balance/snapshot"
FEED = "/api/balance/feed"
LATEST = "/api/balance/latest"
SERIES = "/api/balance/series"
STREAM = "/api/balance/stream"
TICKET = "/api/balance/ticket"
EXPORT = "/api/balance/export"
IMPORT = "/api/balance/import"
CONTRACT = "/api/protocol/v1/"
"""The paths of the contract itself begin with this."""
OPENAPI = "/api/openapi.json"
ASYNCAPI = "/api/asyncapi.json"
DOCS = "/api/docs"
"""The documentation page."""
LIVEZ, READYZ, HEALTHZ = "/livez", "/readyz", "/healthz"
VERSION_PATH = "/version"
METRICS = "/metrics"

PROBLEM = "application/problem+json"  # RFC 9457
SCHEMA_JSON = "application/schema+json"  # JSON Schema draft-07, section 10
TEXT = "text/plain"
EVENT_STREAM = "text/event-stream"
CSV = "text/csv"

_SAVED, _RESAVED = registry.schema("save_reply")["examples"]
_READ = (InvalidPayload, Unauthorized, Forbidden, *HEAD_ERRORS, Busy, Unavailable, InternalError)


OPERATIONS: dict[str, Operation] = {
    operation.id: operation
    for operation in (
        Operation(
            "saveSnapshot",
            "POST",
            SNAPSHOTS,
            "Save a balance snapshot",
            "The response is sent when the snapshot is on disk. The snapshot is then broadcast to every Socket.IO "
            "client. An update with an id may be sent again until it is answered: it is saved once.",
            {
                201: Response("Saved.", "save_reply", JSON, _SAVED, ("Location", *RATE_LIMIT)),
                200: Response(
                    "The same update was saved before; nothing has changed.",
                    "save_reply",
                    JSON,
                    _RESAVED,
                    ("Location", *RATE_LIMIT),
                ),
            },
            (
                *(MalformedJson, InvalidPayload, Unauthorized, Forbidden, Conflict),
                *(PayloadTooLarge, UnsupportedMediaType),
                *(*HEAD_ERRORS, Busy, Unavailable, InternalError),
            ),
            body="balance_update",
        ),
        Operation(
            "listSnapshots",
            "GET",
            SNAPSHOTS,
            "List snapshots",
            "Snapshots with the newest ts come first, and those with the same ts in the reverse order of saving. With "
            "order=seq the last saved come first. Request the next page with the cursor in `next`: this is fast at any "
            "depth.",
            {200: Response("A page of snapshots.", "list_reply")},
            _READ,
            {"query": "list_query"},
        ),
        Operation(
            "getSnapshot",
            "GET",
            SNAPSHOTS + "/{id}",
            "Get one snapshot",
            "The id is the one that the client sent, or the one that the server generated.",
            {200: Response("The snapshot.", "get_reply")},
            (*_READ, NotFound),
            {"path": "get_path"},
        ),
        Operation(
            "getFeed",
            "GET",
            FEED,
            "Read on from a position",
            "The snapshots after a position, oldest first and without a gap: send `last` as the next `after`. At the "
            "end of the feed, `wait` holds the response until something is saved. A position that is not good is "
            "rejected.",
            {200: Response("The snapshots after the position; none if nothing was saved in time.", "feed_reply")},
            (*_READ, PositionUnknown, PositionPruned),
            {"query": "feed_query"},
        ),
        Operation(
            "getLatest",
            "GET",
            LATEST,
            "Get the latest snapshot of each sender",
            "The newest snapshot and the last one of each process id, read at one moment, with the position in the "
            "feed. Its cost depends on the number of process ids, not on the number of snapshots.",
            {200: Response("The latest snapshots.", "latest_reply")},
            _READ,
            {"query": "latest_query"},
        ),
        Operation(
            "getSeries",
            "GET",
            SERIES,
            "Get balances over time",
            "The amounts in force at instants that are evenly spaced from `from` to `to`: those of the last snapshot "
            "at or before each, by its ts. Its cost depends on the number of instants, not on the number of snapshots "
            "between them. By default all processes report one account. With `by=pid` each process id has a line of "
            "its own, and with `sum=pid` they are added, exactly.",
            {200: Response("The amounts at each instant.", "series_reply")},
            _READ,
            {"query": "series_query"},
        ),
        Operation(
            "getStream",
            "GET",
            STREAM,
            "Watch the feed by server-sent events",
            "Every snapshot after a position, and then every one that is saved. EventSource connects again by itself "
            "and misses nothing. A position that is not good is reported in the event connected, and the stream begins "
            "at the end of the feed. A server that is busy or stopping sends the event bye and ends the stream. HEAD "
            "does not open a stream.",
            {
                200: Response(
                    "A stream of events: connected is the first, then each snapshot is a balance:snapshot. ping is "
                    "sent after 15 s without another event, and bye before the server ends the stream.",
                    None,
                    EVENT_STREAM,
                    bodies.STREAM,
                    events={
                        "connected": "stream_connected",
                        "balance:snapshot": "snapshot",
                        "ping": "stream_ping",
                        "bye": "stream_bye",
                    },
                )
            },
            (InvalidPayload, Unauthorized, Forbidden, *HEAD_ERRORS, InternalError),
            {"header": "stream_headers", "query": "stream_query"},
        ),
        Operation(
            "createTicket",
            "POST",
            TICKET,
            "Get a ticket that opens one stream",
            "For EventSource in a browser, which cannot send a token: open the stream within 60 s with the ticket as a "
            "parameter. A ticket opens one stream; get another one to connect again.",
            {200: Response("The ticket.", "ticket_reply")},
            (InvalidPayload, Unauthorized, Forbidden, *HEAD_ERRORS, Busy, Unavailable, InternalError),
        ),
        Operation(
            "getExport",
            "GET",
            EXPORT,
            "Get all snapshots as one file",
            "The snapshots that are saved when the request arrives, in the order of seq, without a limit on their "
            "number. The response is complete if its chunked body has its last chunk: a server that fails "
            "meanwhile closes the connection without it. HEAD returns the headers only.",
            {
                200: Response(
                    "The snapshots: one as JSON in each line, or a table with CRLF at the end of each row (RFC 4180).",
                    None,
                    NDJSON,
                    bodies.LINE,
                    ("Content-Disposition",),
                    {CSV: bodies.CSV},
                )
            },
            _READ,
            {"query": "export_query"},
        ),
        Operation(
            "importSnapshots",
            "POST",
            IMPORT,
            "Save the snapshots of an export",
            "Each line of the body is validated and saved as an update with its id, so that to send a body again is "
            "safe. A line that is refused does not end the import. Lines are saved while the body arrives; `data` of "
            "an error `unavailable` counts those before it. Needs the permission to import.",
            {
                200: Response(
                    "The whole body was read; the counts, and the first lines that were refused.", "import_reply"
                )
            },
            (
                *(InvalidPayload, Unauthorized, Forbidden, PayloadTooLarge, UnsupportedMediaType),
                *(*HEAD_ERRORS, Busy, Unavailable, InternalError),
            ),
            body="import_line",
            body_type=NDJSON,
        ),
        document(
            "getContract",
            CONTRACT.rstrip("/"),  # served with the slash too; linters want paths without
            "Get the index of the contract",
            Response("The index.", "contract_reply", headers=("ETag",)),
        ),
        document(
            "getSchema",
            CONTRACT + "{name}.json",
            "Get one schema, or `bundle` for all of them in one file",
            Response("A JSON Schema, draft-07.", None, SCHEMA_JSON, bodies.A_SCHEMA, ("ETag",)),
            parameters={"path": "schema_path"},
            errors=(NotFound,),
        ),
        document(
            "getTypes",
            CONTRACT + "types.d.ts",
            "Get the TypeScript declarations",
            Response("TypeScript declarations.", None, TEXT, "export type Amount = number;\n", ("ETag",)),
        ),
        document(
            "getOpenapi",
            OPENAPI,
            "Get the OpenAPI document of REST",
            Response("An OpenAPI 3.1 document.", example={"openapi": "3.1.0", "…": "…"}, headers=("ETag",)),
        ),
        document(
            "getAsyncapi",
            ASYNCAPI,
            "Get the AsyncAPI document of Socket.IO",
            Response("An AsyncAPI 3.0 document.", example={"asyncapi": "3.0.0", "…": "…"}, headers=("ETag",)),
        ),
        probe(
            "getLive",
            LIVEZ,
            "Ask whether the process works",
            "503 only if nothing but a restart would help. It does not depend on the database.",
            "live",
        ),
        probe("getReady", READYZ, "Ask whether requests can be served now", READY, "ready"),
        probe("getHealth", HEALTHZ, "Ask the same as /readyz", READY, "ready"),
        Operation(
            "getVersion",
            "GET",
            VERSION_PATH,
            "Get the version that runs",
            "The versions of the service and of the contract.",
            {200: Response("The versions.", "version_reply")},
            (InvalidPayload, Forbidden, *HEAD_ERRORS, InternalError),
        ),
        Operation(
            "getMetrics",
            "GET",
            METRICS,
            "Get the metrics for Prometheus",
            "The text format of Prometheus. Needs the permission to read metrics.",
            {200: Response("The metrics.", None, TEXT, bodies.METRICS)},
            (InvalidPayload, Unauthorized, Forbidden, *HEAD_ERRORS, Busy, Unavailable, InternalError),
        ),
    )
}
"""Each operation by its id."""
