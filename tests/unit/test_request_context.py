"""The ids of a request: `X-Request-Id`, and `traceparent` of W3C Trace Context, level 1."""

from __future__ import annotations

import pytest

from balance.request_context import RequestContext

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def context(**headers: str) -> RequestContext:
    return RequestContext({name.replace("_", "-"): text for name, text in headers.items()}, "192.0.2.1")


def response(one: RequestContext) -> dict[str, str]:
    """Return the headers of the response to a request."""
    headers: dict[str, str] = {}
    one.set_headers(headers)
    return headers


@pytest.mark.parametrize("text", ["a", "A.b_c-9", "x" * 128])
def test_the_id_of_the_client_is_kept_and_returned(text: str) -> None:
    assert response(context(X_Request_Id=text)) == {"X-Request-Id": text}


@pytest.mark.parametrize("text", ["", "x" * 129, "a b", "a\nb", "a,b", "ä", '"'])
def test_an_id_that_could_forge_a_line_is_replaced(text: str) -> None:
    (one,) = response(context(X_Request_Id=text)).values()
    assert one != text
    assert one.isprintable()
    assert one.isascii()


def test_no_two_requests_without_an_id_get_the_same() -> None:
    assert len({context().request_id for _ in range(100)}) == 100


@pytest.mark.parametrize(("flags", "returned"), [("00", "00"), ("01", "01"), ("ff", "01"), ("02", "00")])
def test_a_trace_is_continued_with_a_new_span(flags: str, returned: str) -> None:
    one = context(Traceparent=f"00-{TRACE}-{SPAN}-{flags}")
    assert response(one)["Traceparent"] == f"00-{TRACE}-{one.span_id}-{returned}"
    assert one.trace_id == TRACE
    assert one.span_id != SPAN
    assert len(one.span_id) == len(SPAN)


def test_a_later_version_is_read_as_far_as_this_one() -> None:
    assert context(Traceparent=f"01-{TRACE}-{SPAN}-01-what-else").trace_id == TRACE
    assert context(Traceparent=f"cc-{TRACE}-{SPAN}-01").trace_id == TRACE


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"01-{TRACE}-{SPAN}-01.more",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
    ],
)
def test_a_traceparent_that_is_not_valid_is_ignored(text: str) -> None:
    one = context(Traceparent=text)
    assert (one.trace_id, one.span_id) == ("", "")
    assert "Traceparent" not in response(one)
