"""Errors as problem details (RFC 9457), for clients that ask for them."""

from __future__ import annotations

from typing import Any

import protocol
from protocol.operation import JSON
from protocol.operations import PROBLEM

REFUSED = frozenset(("q=0", "q=0.", "q=0.0", "q=0.00", "q=0.000"))  # RFC 9110, section 12.4.2


def error_body(error: protocol.ServiceError, accept: str | None) -> tuple[dict[str, Any], str]:
    """Return the body of an error and its media type: problem details only if the header Accept names them."""
    if accept is not None and accepts(accept, PROBLEM):
        return error.problem(), PROBLEM
    return error.body(), JSON


def accepts(accept: str, wanted: str) -> bool:
    """Return whether a header Accept has a media type by its name; `*/*` is what every client sends."""
    for part in accept.lower().split(","):
        media_type, *parameters = [piece.strip() for piece in part.split(";")]
        if media_type == wanted and REFUSED.isdisjoint(parameters):
            return True
    return False
