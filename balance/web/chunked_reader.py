"""Read a chunked body from an HTTP/1.1 connection (RFC 9112, section 7.1).

Tornado's reader accepts more than the RFC allows, and a reader that does sees other requests than a proxy before it.

tests/unit/test_library_internals.py lists the private names of Tornado that this relies on.
"""

from __future__ import annotations

import asyncio
import re

from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPHeaders, HTTPInputError, HTTPMessageDelegate

import protocol
from balance.web.http_errors import explain_head

HEADER_LINES_MAX = 100  # of a head or of trailers; to parse a line takes longer than to read a kilobyte
# RFC 9112, section 7.1: the size, and extensions, which are ignored. A line ends in CR LF and in nothing else: a reader
# that accepts a bare LF as the end of an extension sees other requests than a reader that does not.
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})([ \t]*;[\t\x20-\x7e\x80-\xff]*)?\r\n")
CHUNK_LINE_BYTES_MAX = 1_024
TURN_BYTES = 262_144  # of a chunked body, after which other coroutines run; each chunk counts as CHUNK_COST more
CHUNK_COST = 1_024


class ChunkedReader(HTTP1Connection):
    """A connection that reads chunked bodies strictly."""

    async def _read_chunked_body(self, delegate: HTTPMessageDelegate) -> None:
        """Read a chunked body (RFC 9112, section 7.1). Extensions and trailers are checked and ignored."""
        body_left, extras_left, work = self._max_body_size, self.params.max_header_size, 0
        while True:
            line = await self.stream.read_until(b"\n", max_bytes=CHUNK_LINE_BYTES_MAX)
            found = CHUNK_LINE.fullmatch(line)
            if found is None:
                raise protocol.InvalidPayload("a chunk must begin with its size in hexadecimal digits", "payload")
            size, extension = int(found[1], 16), found[2] or b""
            extras_left -= len(extension)
            if extras_left < 0:
                raise protocol.HeadersTooLarge("are too long together", "chunk extensions")
            if size == 0:
                await self._read_trailers(extras_left)
                return
            body_left -= size
            if body_left < 0:
                raise protocol.PayloadTooLarge(f"is larger than {self._max_body_size} bytes", "payload")
            await self._read_fixed_body(size, delegate)
            if await self.stream.read_until(b"\n", max_bytes=2) != b"\r\n":
                raise protocol.InvalidPayload("a chunk must end in CR LF after the bytes of its size", "payload")
            work += size + CHUNK_COST
            if work >= TURN_BYTES:
                work = 0
                await asyncio.sleep(0)

    async def _read_trailers(self, bytes_left: int) -> None:
        """Read and ignore the trailer section (RFC 9112, section 7.1.2), which has the same syntax as headers."""
        trailers = b""
        while (line := await self.stream.read_until(b"\n", max_bytes=bytes_left + 2)) != b"\r\n":
            if line.endswith(b"\n") and not line.endswith(b"\r\n"):
                raise protocol.InvalidPayload("must each end in CR LF", "trailers")
            bytes_left -= len(line)
            trailers += line
            if bytes_left < 0 or trailers.count(b"\n") > HEADER_LINES_MAX:
                raise protocol.HeadersTooLarge("are too long", "trailers")
        try:
            HTTPHeaders.parse(trailers.decode("latin1"))
        except HTTPInputError as error:
            raise explain_head(b"GET / HTTP/1.1\r\n" + trailers) from error
