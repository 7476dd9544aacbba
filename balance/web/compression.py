"""Compresses bodies with gzip for the clients that accept it (RFC 9110, sections 8.4.1 and 12.5.3)."""

from __future__ import annotations

import gzip
import re

GZIP_BYTES_MIN = 8_192  # of a body that is compressed for one request: a smaller one saves less than it costs
LEVEL = 1  # level 6 makes a list a tenth smaller, and takes three times as long
ACCEPTED_MAX = 512  # characters of an Accept-Encoding; no compression is acceptable to a client that sends more
QVALUE = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")


def takes_gzip(accepted: str) -> bool:
    """Read an Accept-Encoding: return whether gzip is acceptable and not liked less than no compression."""
    if len(accepted) > ACCEPTED_MAX:
        return False
    weights: dict[str, float] = {}
    for part in accepted.lower().split(","):
        coding, *parameters = (piece.strip() for piece in part.split(";"))
        weights[coding] = _weight(parameters)
    gzip_weight = weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0)))
    return gzip_weight > 0 and gzip_weight >= weights.get("identity", 0.0)


def _weight(parameters: list[str]) -> float:
    """Return the weight of a coding: 1 where none is given, 0 where it cannot be read."""
    if not parameters:
        return 1.0
    name, _, value = parameters[0].partition("=")
    return float(value) if len(parameters) == 1 and name == "q" and QVALUE.fullmatch(value) else 0.0


def compressed(body: bytes) -> bytes:
    """Compress a body. Takes milliseconds for one of 100 kB: call it in a worker thread."""
    return gzip.compress(body, LEVEL, mtime=0)
