"""Compress bodies with gzip for the clients that accept it (RFC 9110, sections 8.4.1 and 12.5.3)."""

from __future__ import annotations

import gzip
import re

GZIP_BYTES_MIN = 8_192  # of a body that is compressed for one request: for a smaller one it costs more than it saves
LEVEL = 1  # level 6 makes a list a tenth smaller and needs three times as long
ACCEPT_LENGTH_MAX = 512  # characters of an Accept-Encoding; a longer one gets no compression
QVALUE = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")


def accepts_gzip(accept_encoding: str) -> bool:
    """Return whether an Accept-Encoding accepts gzip, with at least the weight of no compression."""
    if len(accept_encoding) > ACCEPT_LENGTH_MAX:
        return False
    weights: dict[str, float] = {}
    for part in accept_encoding.lower().split(","):
        coding, *parameters = (piece.strip() for piece in part.split(";"))
        weights[coding] = _weight(parameters)
    gzip_weight = weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0)))
    return gzip_weight > 0 and gzip_weight >= weights.get("identity", 0.0)


def _weight(parameters: list[str]) -> float:
    """Return the weight of a coding: 1 if none is given, 0 if it is malformed."""
    if not parameters:
        return 1.0
    name, _, value = parameters[0].partition("=")
    return float(value) if len(parameters) == 1 and name == "q" and QVALUE.fullmatch(value) else 0.0


def compress_large(body: bytes) -> tuple[bytes, bool]:
    """Compress a body that is large enough; return it and whether it is compressed. Call it in a worker thread."""
    return (body, False) if len(body) < GZIP_BYTES_MIN else (compress(body), True)


def compress(body: bytes) -> bytes:
    """Compress a body. Takes milliseconds for one of 100 kB: call it in a worker thread."""
    return gzip.compress(body, LEVEL, mtime=0)
