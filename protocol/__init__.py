"""The contract of the Balance Snapshot System: every message on the wire, and the validation of payloads.

    from protocol import check, loads

    update = loads(text)                # exact numbers; raises MalformedJson
    check("balance_update", update)     # raises InvalidPayload: "onchain.rlb: must be at least 0"

The package does not depend on the service, so that a client can use it too. `EVENTS` is the table of Socket.IO events,
`OPERATIONS` the table of REST operations and `ERRORS` the closed table of errors. `names` and `schema` return the JSON
Schemas. `protocol.documents` builds the documents for client teams. The command is `python -m protocol`.
"""

from protocol.check import check
from protocol.codec import Encoded, dumps, encode, loads
from protocol.errors import (
    ERRORS,
    Busy,
    Conflict,
    Forbidden,
    HeadersTooLarge,
    InternalError,
    InvalidPayload,
    MalformedJson,
    MethodNotAllowed,
    MisdirectedRequest,
    NotFound,
    PayloadTooLarge,
    PositionPruned,
    PositionUnknown,
    RateLimited,
    RequestTimeout,
    ServiceError,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
)
from protocol.events import (
    BALANCE_ACK,
    BALANCE_ERROR,
    BALANCE_SNAPSHOT,
    BALANCE_UPDATE,
    CONNECTED,
    EVENTS,
    NAMESPACE,
    PING,
    PONG,
    SOCKET_PATH,
    Event,
)
from protocol.operation import Operation
from protocol.operations import OPERATIONS
from protocol.plain_update import ValidatedUpdate, decode_import_line, decode_update
from protocol.registry import names, schema

__version__ = "0.1.0"  # of the package, as balance.__version__; the contract's own is in each schema's `$id`

__all__ = [
    "BALANCE_ACK",
    "BALANCE_ERROR",
    "BALANCE_SNAPSHOT",
    "BALANCE_UPDATE",
    "CONNECTED",
    "ERRORS",
    "EVENTS",
    "NAMESPACE",
    "OPERATIONS",
    "PING",
    "PONG",
    "SOCKET_PATH",
    "Busy",
    "Conflict",
    "Encoded",
    "Event",
    "Forbidden",
    "HeadersTooLarge",
    "InternalError",
    "InvalidPayload",
    "MalformedJson",
    "MethodNotAllowed",
    "MisdirectedRequest",
    "NotFound",
    "Operation",
    "PayloadTooLarge",
    "PositionPruned",
    "PositionUnknown",
    "RateLimited",
    "RequestTimeout",
    "ServiceError",
    "Unauthorized",
    "Unavailable",
    "UnsupportedMediaType",
    "ValidatedUpdate",
    "check",
    "decode_import_line",
    "decode_update",
    "dumps",
    "encode",
    "loads",
    "names",
    "schema",
]
