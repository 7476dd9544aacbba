"""The lines of an import: how a body is split, what is kept of it, and the counts."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

import protocol
from balance.transfer.importing import ERRORS_MAX, LINE_BYTES_MORE, ImportResult, Line, Lines
from tests.support.payloads import DIGITS_40, LINE


def split(*parts: bytes, update_bytes_max: int = 1_024) -> list[Line]:
    lines = Lines(update_bytes_max)
    return [line for part in parts for line in lines.feed(part)] + list(lines.rest())


@given(st.lists(st.sampled_from([b"", b"a", b"bc", b" ", b"\r"]), max_size=8), st.data())
def test_a_body_has_the_same_lines_however_it_arrives(texts: list[bytes], data: st.DataObject) -> None:
    body = b"\n".join(texts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=4)))
    parts = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    wanted = [Line(number, text) for number, text in enumerate(texts, 1) if text.strip()]
    assert split(*parts) == split(body) == wanted


@pytest.mark.parametrize("size", [1, 9, 65_536])
def test_a_line_that_is_too_long_is_one_refused_line(size: int) -> None:
    most = 1_024 + LINE_BYTES_MORE
    body = b"x" * most + b"\n" + b"y" * (most + 1) + b"\nz"
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    assert [(line.number, line.text and line.text[:1]) for line in split(*parts)] == [(1, b"x"), (2, None), (3, b"z")]
    with pytest.raises(protocol.PayloadTooLarge, match=f"is larger than {most} bytes"):
        Lines(1_024).decode(Line(2, None))


def test_a_line_without_an_end_is_not_held_in_memory() -> None:
    lines, part = Lines(16_384), b"x" * 65_536
    tracemalloc.start()
    for _ in range(1_000):
        assert list(lines.feed(part)) == []
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (LINE[:-9], "payload: is not valid JSON"),
        (b"[1]", "payload: must be an object, not an array"),
        (LINE.replace(b'"id"', b'"ID"'), "ID: is not a known field"),
        (LINE.replace(b'"ts":"2025-11-07T00:45:08.603Z",', b""), "ts: is required"),
        (LINE.replace(b'"019a5bb2-4a1b-7c3e-9f10-2b6d8e4f7a51"', b"null"), "id: must be a string, not null"),
        (LINE[:-1] + b',"seq":1.5}', "seq: must be an integer or null, not 1.5"),
        (LINE[:-1] + b',"more":1}', "more: is not a known field"),
        (LINE.replace(b'"rlb":1', b'"rlb":-1'), "onchain.rlb: must be at least 0"),
        (LINE.replace(b'"usd"', b'"\xff"'), "payload: is not valid UTF-8"),
    ],
)
def test_a_bad_line_is_refused_with_its_field(text: bytes, error: str) -> None:
    with pytest.raises(protocol.ServiceError) as caught:
        protocol.decode_import_line(text)
    assert str(caught.value) == error


def test_a_line_of_an_export_is_decoded_without_its_seq() -> None:
    (example,) = protocol.schema("import_line")["examples"]
    for changed in ({}, {"pid": None}, {"seq": None}, {"seq": 2**70}):
        text = protocol.encode({**example, **changed})
        assert type(protocol.decode_import_line(text)) is protocol.ValidatedUpdate, "on the fast path"
    other = LINE.replace(b'"rlb":1', b'"rlb":1e3')
    for text in (other, other.replace(b"{", b'{"seq":7,', 1)):
        assert protocol.decode_import_line(text) == protocol.loads(other)
    long = protocol.decode_import_line(LINE.replace(b'"rlb":1', b'"rlb":' + DIGITS_40.encode()))
    assert bytes(long["onchain"]).startswith(b'{"rlb":' + DIGITS_40.encode())


def test_the_first_refused_lines_are_reported_in_their_order() -> None:
    result = ImportResult()
    for number in [*range(100, 40, -1), *range(1, 41)]:
        result.refuse(number, protocol.Conflict())
    wire = result.to_wire()
    assert wire["refused"] == 100
    assert [error["line"] for error in wire["errors"]] == [*range(1, ERRORS_MAX + 1)]
    protocol.check("import_result", wire)
