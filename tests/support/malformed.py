"""Requests that are not valid HTTP/1.1: the bytes, and the status and the error of the answer."""

from __future__ import annotations

from balance.web.http_connection import HEAD_BYTES_MAX
from tests.support.service import SNAPSHOTS

UPDATE = b'{"onchain":{"rlb":1,"usdt":2},"onsite":{"rlb":3,"usd":4}}'
HOST = b"Host: x\r\n"
POST = b"POST /api/balance/snapshot HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
LINE = "request line"
ONE_SPACE = "must be a method, a target and HTTP/1.1, with one space between them"
CHUNK_SIZE = "payload: a chunk must begin with its size in hexadecimal digits"
CHUNK_END = "payload: a chunk must end in CR LF after the bytes of its size"
AUTHORITY = "request target: must have a host, and no user before it (RFC 9110, section 4.2)"
PROXY = "must be a path or an http:// address; this server is not a proxy"
HOST_SHAPE = "must be a host, or a host and a port, such as 127.0.0.1:3000"
BODY_MAX = 67_108_864


def get(rest: bytes = HOST, target: bytes = SNAPSHOTS.encode(), method: bytes = b"GET") -> bytes:
    return method + b" " + target + b" HTTP/1.1\r\n" + rest + b"\r\n"


MALFORMED: dict[str, tuple[bytes, int, str]] = {
    # The request line
    "no line": (b"\r\n\r\n", 400, f"{LINE}: {ONE_SPACE}"),
    "two words": (b"GET /\r\n" + HOST + b"\r\n", 400, f"{LINE}: {ONE_SPACE}"),
    "two spaces": (b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", 400, f"{LINE}: {ONE_SPACE}"),
    "space in target": (get(target=b"/api/balance/snap shot"), 400, f"{LINE}: {ONE_SPACE}"),
    "HTTP/2.0": (
        b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 400, f"{LINE}: must end in HTTP/1.1; HTTP/2.0 is not supported"
    ),
    "HTTP/2 preface": (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, f"{LINE}: must end in HTTP/1.1; HTTP/2.0 is not supported"
    ),
    "HTTP/0.9": (b"GET / HTTP/0.9\r\n\r\n", 400, f"{LINE}: must end in HTTP/1.1; HTTP/0.9 is not supported"),
    "small letters": (b"GET / http/1.1\r\n" + HOST + b"\r\n", 400, f"{LINE}: must end in HTTP/1.1"),
    "long version": (b"GET / HTTP/1.10\r\n" + HOST + b"\r\n", 400, f"{LINE}: must end in HTTP/1.1"),
    "bad method": (get(method=b"G(T"), 400, f"{LINE}: the method must be a word of letters"),
    "NUL in target": (get(target=b"/a\0b"), 400, f"{LINE}: the target must not hold control characters"),
    "tab in target": (get(target=b"/a\tb"), 400, f"{LINE}: the target must not hold control characters"),
    "not HTTP": (b"\0\0\0\x08\x04\xd2\x16\x2f", 400, f"{LINE}: {ONE_SPACE}"),  # PostgreSQL's SSLRequest
    "bare CR": (b"GET / HTTP/1.1\rHost: x\r\r\n\r\n", 400, f"{LINE}: {ONE_SPACE}"),
    # Its target
    "https": (
        get(target=b"https://x/"), 400, "request target: must be an http:// address: this port speaks plain HTTP"
    ),
    "no path": (get(target=b"api"), 400, f"request target: {PROXY}"),
    "tunnel": (get(target=b"db.example:5432", method=b"CONNECT"), 400, f"request target: {PROXY}"),
    "star": (get(target=b"*"), 400, f"request target: {PROXY}"),
    "user": (
        get(target=b"http://a:b@x/"), 400,
        AUTHORITY,
    ),
    "empty authority": (
        get(target=b"http:///a"), 400,
        AUTHORITY,
    ),
    # Header lines
    "obs-fold": (get(HOST + b"X: a\r\n b\r\n"), 400, "X: must be on one line (RFC 9112, section 5.2)"),
    "fold at first": (get(b" x\r\n" + HOST), 400, "the first header: must be on one line (RFC 9112, section 5.2)"),
    "no colon": (get(HOST + b"nonsense\r\n"), 400, "nonsense: is a header line without a colon"),
    "space before colon": (
        get(b"Content-Length : 3\r\n"), 400, '"Content-Length ": is not a header name (RFC 9110, section 5.1)'
    ),
    "no name": (get(HOST + b": x\r\n"), 400, '"": is not a header name (RFC 9110, section 5.1)'),
    "name not ASCII": (get(HOST + b"\xe9: x\r\n"), 400, '"\\u00e9": is not a header name (RFC 9110, section 5.1)'),
    "NUL in value": (get(HOST + b"X: a\0b\r\n"), 400, "X: must not hold control characters"),
    "CR in value": (get(HOST + b"X-Y: a\rb\r\n"), 400, "X-Y: must not hold control characters"),
    # Host
    "no Host": (get(b""), 400, "Host: is required (RFC 9112, section 3.2)"),
    "two Hosts": (get(b"Host: a\r\nHost: b\r\n"), 400, "Host: is given more than once"),
    "Host twice": (get(HOST + HOST), 400, "Host: is given more than once"),
    "a list of Hosts": (get(b"Host: a, b\r\n"), 400, f"Host: {HOST_SHAPE}"),
    "Host as address": (get(b"Host: http://x/\r\n"), 400, f"Host: {HOST_SHAPE}"),
    "no Host beside absolute form": (get(b"", target=b"http://x/"), 400, "Host: is required (RFC 9112, section 3.2)"),
    "long query": (get(target=b"/?" + b"a&" * 1000), 400, "query: must have at most 1000 parameters"),
    # The size of the body
    "two lengths": (
        POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n1234", 400, "Content-Length: is given more than once"
    ),
    "a list of lengths": (POST + b"Content-Length: 3,4\r\n\r\n1234", 400, "Content-Length: is given more than once"),
    "negative": (POST + b"Content-Length: -3\r\n\r\n", 400, "Content-Length: must be a whole number of bytes"),
    "plus": (POST + b"Content-Length: +3\r\n\r\n", 400, "Content-Length: must be a whole number of bytes"),
    "hexadecimal": (POST + b"Content-Length: 0x3\r\n\r\n", 400, "Content-Length: must be a whole number of bytes"),
    "empty length": (POST + b"Content-Length:\r\n\r\n", 400, "Content-Length: must be a whole number of bytes"),
    "other digits": (POST + b"Content-Length: \xb2\r\n\r\n", 400, "Content-Length: must be a whole number of bytes"),
    "too long": (
        POST + b"Content-Length: %d\r\n\r\n" % (BODY_MAX + 1), 413, f"Content-Length: must be at most {BODY_MAX} bytes"
    ),
    "5000 digits": (
        POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 413, "Content-Length: must have at most 18 digits"
    ),
    "two kinds of size": (
        POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400,
        "Transfer-Encoding: must not be sent with Content-Length",
    ),
    "compressed transfer": (
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 400, "Transfer-Encoding: must be chunked"
    ),
    "chunked twice": (
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400,
        "Transfer-Encoding: must be chunked",
    ),
    "chunked in HTTP/1.0": (
        CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0"), 400, "Transfer-Encoding: must not be sent in a request of HTTP/1.0"
    ),
    # Chunks
    "no size": (CHUNKED + b"zz\r\n", 400, CHUNK_SIZE),
    "size with 0x": (CHUNKED + b"0x3\r\n", 400, CHUNK_SIZE),
    "negative size": (CHUNKED + b"-3\r\n", 400, CHUNK_SIZE),
    "17 digits": (CHUNKED + b"0" * 17 + b"\r\n", 400, CHUNK_SIZE),
    "space after size": (CHUNKED + b"3 \r\n", 400, CHUNK_SIZE),
    "bare LF in extension": (
        CHUNKED + b"3;a\nabc\r\n0\r\n\r\n", 400, CHUNK_SIZE
    ),
    "size before a bare LF": (CHUNKED + b"3\n", 400, CHUNK_SIZE),
    "chunk before a bare LF": (
        CHUNKED + b"3\r\nabc\n", 400, CHUNK_END
    ),
    "endless size": (CHUNKED + b"0" * 5000, 400, CHUNK_SIZE),
    "longer than its size": (CHUNKED + b"3\r\nabcd\r\n", 400, CHUNK_END),
    "large chunk": (CHUNKED + b"%x\r\n" % (BODY_MAX + 1), 413, f"payload: is larger than {BODY_MAX} bytes"),
    "many extensions": (
        CHUNKED + (b"1;" + b"a" * 1000 + b"\r\nx\r\n") * 20, 431, "chunk extensions: are too long together"
    ),
    "bad trailer": (CHUNKED + b"0\r\nX y: z\r\n\r\n", 400, '"X y": is not a header name (RFC 9110, section 5.1)'),
    "trailer before a bare LF": (CHUNKED + b"0\r\nX: y\n", 400, "trailers: must each end in CR LF"),
    "no trailer before a bare LF": (CHUNKED + b"0\r\n\n", 400, "trailers: must each end in CR LF"),
    "folded trailer": (CHUNKED + b"0\r\nX: a\r\n b\r\n\r\n", 400, "X: must be on one line (RFC 9112, section 5.2)"),
    "long trailers": (CHUNKED + b"0\r\n" + b"X: y\r\n" * 4000, 431, "trailers: are too long"),
    "many trailers": (CHUNKED + b"0\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431, "trailers: are too long"),
    "endless trailer": (CHUNKED + b"0\r\n" + b"a" * 20_000, 431, "trailers: are too long"),
    # The size of the head
    "large header": (get(HOST + b"X: " + b"a" * 70_000 + b"\r\n"), 431, "head: must be at most 16384 bytes"),
    "many headers": (get(HOST + b"X: y\r\n" * 100), 431, "head: must have at most 100 header lines"),
    "endless head": (b"GET /" + b"a" * 20_000, 431, "head: must be at most 16384 bytes"),
    "one byte too many": (
        get(HOST + b"X: " + b"a" * (HEAD_BYTES_MAX + 1 - len(get(HOST + b"X: \r\n"))) + b"\r\n"), 431,
        "head: must be at most 16384 bytes",
    ),
}  # fmt: skip
