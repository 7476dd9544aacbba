"""Checks of the one shape that every refusal of the service has."""

from __future__ import annotations

import json
from typing import Any

from tornado.httpclient import HTTPClientError

import protocol
from tests.support.http_client import Reply
from tests.support.raw_clients import open_websocket


def check_refused(reply: Reply, code: str, error: str) -> None:
    """Check the shape of a refusal by HTTP, the status of its code, and its text."""
    assert reply.body == {"success": False, "error": error, "code": code}
    assert reply.status == protocol.ERRORS[code].status
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert "Server" not in reply.headers
    protocol.check("error_reply", reply.body)


def check_error(refusal: bytes | dict[str, Any], code: str | None = None) -> None:
    """Check the shape of a refusal on any transport, and its code if one is given."""
    payload = json.loads(refusal) if isinstance(refusal, bytes) else refusal
    assert payload["success"] is False, payload
    assert isinstance(payload["error"], str), payload
    assert payload["error"], payload
    assert isinstance(payload["code"], str), payload
    assert code is None or payload["code"] == code, payload


async def refusal_of_websocket(url: str, **options: Any) -> tuple[int, bytes]:
    """Open a WebSocket that the server must refuse by HTTP; return the status and the body."""
    try:
        connection = await open_websocket(url, **options)
    except HTTPClientError as refused:
        if refused.response is None:
            raise
        return refused.code, refused.response.body
    connection.close()
    raise AssertionError("the WebSocket was accepted")
