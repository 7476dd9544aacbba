"""What may pass on the wire of the Balance Snapshot System, and how a payload is checked.

    from protocol import check, loads

    update = loads(text)                # exact numbers; raises MalformedJson
    check("balance_update", update)     # raises InvalidPayload: "onchain.rlb: must be at least 0"

Stands alone: it knows nothing of the service, and a client may use it as it is. `EVENTS` is the table of
Socket.IO events, `OPERATIONS` that of REST, `ERRORS` the closed table of errors; `names` and `schema` give the JSON
Schemas. `protocol.documents` puts them together as what a client team takes away. On the shell: `python -m protocol`.
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
from protocol.operations import OPERATIONS, Operation
from protocol.plain_update import PlainUpdate, loads_update
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
    "PlainUpdate",
    "RateLimited",
    "RequestTimeout",
    "ServiceError",
    "Unauthorized",
    "Unavailable",
    "UnsupportedMediaType",
    "check",
    "dumps",
    "encode",
    "loads",
    "loads_update",
    "names",
    "schema",
]
