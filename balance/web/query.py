"""Decode the query string of a REST request into the object that its schema describes, and the position in it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from tornado.httputil import HTTPServerRequest

import protocol
from balance.position import ClaimedPosition

INTEGER = re.compile(r"-?[0-9]+")
DIGITS_MAX = 30
NO_WORDS: Mapping[str, str] = {}


def read_query(
    request: HTTPServerRequest,
    integers: Collection[str],
    repeatable: Collection[str] = (),
    words: Mapping[str, str] = NO_WORDS,
) -> dict[str, Any]:
    """Return the parameters by name: an int if the name is in `integers`, otherwise a text.

    A parameter in `repeatable` is a list. `words` has, by the name of an integer, the word that may be given instead of
    a number, such as `now`; it is returned as a text. Raises InvalidPayload for a parameter that is given twice and is
    not in `repeatable`, for a text that is neither an integer nor that word, and for one that is not UTF-8 or has a
    space that was sent as `+`.

    Integers are checked here: every value of a query is a text, so that the error of the schema would be about texts.
    """
    query: dict[str, Any] = {}
    for name, values in request.query_arguments.items():
        if len(values) > 1 and name not in repeatable:
            raise protocol.InvalidPayload("is given more than once", name)
        texts = [_decode(name, value) for value in values]
        if name in integers:
            paths = [f"{name}.{at}" for at in range(len(texts))] if name in repeatable else [name]
            word = words.get(name, "")
            decoded: list[Any] = [_to_integer(path, text, word) for path, text in zip(paths, texts, strict=True)]
        elif "+" in request.query and any(" " in text for text in texts):
            raise protocol.InvalidPayload("holds a space, which a + in a query means: write + as %2B", name)
        else:
            decoded = [*texts]
        query[name] = decoded if name in repeatable else decoded[0]
    return query


def _decode(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise protocol.InvalidPayload("is not valid UTF-8", name) from error


def _to_integer(path: str, text: str, word: str) -> int | str:
    """Return the integer of a text, or the text if it is the word that may be there instead."""
    if word and text == word:
        return text
    if not INTEGER.fullmatch(text):
        raise protocol.InvalidPayload(f"must be an integer or {word}" if word else "must be an integer", path)
    if len(text.lstrip("-")) > DIGITS_MAX:
        raise protocol.InvalidPayload(f"must have at most {DIGITS_MAX} digits", path)
    return int(text)


def to_claimed(after: int, query: Mapping[str, Any]) -> ClaimedPosition:
    """Return a position of which a query may have the `epoch`, and the `id` of the snapshot `after`."""
    return ClaimedPosition.of(after, query.get("epoch"), query.get("id"))
