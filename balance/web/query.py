"""Decode the query string of a REST request into the object that its schema describes, and the position in it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from tornado.httputil import HTTPServerRequest

import protocol
from balance.position import ClaimedPosition

INTEGER = re.compile(r"-?[0-9]{1,30}")


def read_query(
    request: HTTPServerRequest, integers: Collection[str], repeatable: Collection[str] = ()
) -> dict[str, Any]:
    """Return the parameters by name: a text, or an int if the name is in `integers` and the text is one.

    A parameter in `repeatable` is a list. Raises InvalidPayload for any other that is given twice, and for a text that
    is not UTF-8 or was not encoded.
    """
    query: dict[str, Any] = {}
    for name, values in request.query_arguments.items():
        if len(values) > 1 and name not in repeatable:
            raise protocol.InvalidPayload("is given more than once", name)
        decoded = [_decode(request, name, value, integers) for value in values]
        query[name] = decoded if name in repeatable else decoded[0]
    return query


def _decode(request: HTTPServerRequest, name: str, value: bytes, integers: Collection[str]) -> str | int:
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        raise protocol.InvalidPayload("is not valid UTF-8", name) from error
    if name in integers:
        return int(text) if INTEGER.fullmatch(text) else text
    if " " in text and "+" in request.query:
        raise protocol.InvalidPayload("holds a space, which a + in a query means: write + as %2B", name)
    return text


def to_claimed(after: int, query: Mapping[str, Any]) -> ClaimedPosition:
    """Return a position of which a query may have the `epoch`, and the `id` of the snapshot `after`."""
    return ClaimedPosition.of(after, query.get("epoch"), query.get("id"))
