"""A WebSocket for which a test writes each byte, for frames that no client library would send (RFC 6455)."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from typing import Self

from tests.support.raw_clients import PATH

FINAL, CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x80, 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
MASK = b"\x01\x02\x03\x04"
ANSWER_S_MAX = 2.0
SEND_S_MAX = 60.0
HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def frame(head: int, data: bytes, mask: bytes | None = MASK) -> bytes:
    """Make a frame (RFC 6455, section 5.2). Only a server may send one without a mask."""
    flag = 0x80 if mask else 0
    if len(data) < 126:
        size = bytes([flag | len(data)])
    elif len(data) < 65_536:
        size = bytes([flag | 126]) + len(data).to_bytes(2, "big")
    else:
        size = bytes([flag | 127]) + len(data).to_bytes(8, "big")
    if mask:
        key = (mask * (len(data) // 4 + 1))[: len(data)]
        data = (int.from_bytes(data) ^ int.from_bytes(key)).to_bytes(len(data))
    return bytes([head]) + size + (mask or b"") + data


def text_frame(message: str | bytes) -> bytes:
    """Make the frame of a text message."""
    return frame(FINAL | TEXT, message.encode() if isinstance(message, str) else message)


class RawSocket:
    """One connection after the WebSocket handshake; each wait is bounded, by default by ANSWER_S_MAX."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(
        cls,
        base_url: str,
        query: str = "EIO=4&transport=websocket",
        *,
        read_ahead: int = 65_536,
        tls: ssl.SSLContext | None = None,
    ) -> Self:
        """Connect and read the OPEN packet, if there is no session yet.

        Without a call to `read`, asyncio reads at most `read_ahead` bytes by itself, twice.
        """
        host = base_url.partition("://")[2]
        address, _, port = host.partition(":")
        client = cls(*await asyncio.open_connection(address, int(port), limit=read_ahead, ssl=tls))
        await client.send(HANDSHAKE.format(path=f"{PATH}/?{query}", host=host).encode())
        head = await client._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        if "sid=" not in query:
            assert (await client.read_text()).startswith("0{")
        return client

    @classmethod
    async def join(cls, base_url: str, *, read_ahead: int = 65_536, tls: ssl.SSLContext | None = None) -> Self:
        """Connect, and connect to the main namespace."""
        client = await cls.open(base_url, read_ahead=read_ahead, tls=tls)
        await client.send(text_frame("40"))
        assert (await client.read_text()).startswith("40{")
        assert (await client.read_text()).startswith('42["connected",')
        return client

    async def send(self, data: bytes) -> None:
        """Send bytes; return when the operating system has accepted the last of them."""
        self._writer.transport.set_write_buffer_limits(0)
        self._writer.write(data)
        async with asyncio.timeout(SEND_S_MAX):
            await self._writer.drain()

    async def read(self, seconds: float = ANSWER_S_MAX) -> tuple[int, bytes]:
        """Read one frame; return its opcode and its payload."""
        async with asyncio.timeout(seconds):
            head, size = await self._reader.readexactly(2)
            if size >= 126:
                size = int.from_bytes(await self._reader.readexactly(2 if size == 126 else 8), "big")
            return head & 0x0F, await self._reader.readexactly(size)

    async def read_text(self, seconds: float = ANSWER_S_MAX) -> str:
        opcode, data = await self.read(seconds)
        assert opcode == TEXT, (opcode, data)
        return data.decode()

    async def next_message(self, seconds: float = 10.0) -> str:
        """Read one text message, after answering any heartbeat before it. Raises EOFError at a close frame."""
        while True:
            opcode, data = await self.read(seconds)
            if opcode == CLOSE:
                raise EOFError(f"closed: {data!r}")
            if data != b"2":
                return data.decode()
            await self.send(text_frame("3"))

    async def read_close(self, seconds: float = ANSWER_S_MAX) -> tuple[int, str]:
        """Read the close frame, which must be the next frame; return its code and its reason."""
        opcode, data = await self.read(seconds)
        assert opcode == CLOSE, (opcode, data)
        return int.from_bytes(data[:2], "big"), data[2:].decode()

    async def read_close_after(self, packet: str) -> int:
        """Read up to the close frame and return its code; only this packet may come before it."""
        opcode, data = await self.read()
        if opcode == TEXT:
            assert data.decode() == packet
            return (await self.read_close())[0]
        return int.from_bytes(data[:2], "big")

    async def read_end(self) -> bytes:
        """Read until the server has closed its side; return the bytes."""
        async with asyncio.timeout(ANSWER_S_MAX):
            return await self._reader.read()

    def reset(self) -> None:
        """Close the connection by a reset, so that the next read of the server fails."""
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def close(self) -> None:
        self._writer.close()
        await asyncio.wait([asyncio.ensure_future(self._writer.wait_closed())])
