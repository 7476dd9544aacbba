"""A TCP proxy that closes connections at random, in the middle of what they carry."""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from random import Random

from tests.support.example_clients import TcpProxy

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: the close sends RST, and drops what was not sent


class CuttingProxy(TcpProxy):
    """A TCP proxy with a fixed address that ends each connection after a random number of bytes.

    The number is exponentially distributed, for each direction of each connection: each byte is as likely to be the
    last one as any other. Half of the ends of a request are resets for the server. A client is sent none: Tornado's
    does not end a request whose connection is reset in the middle of the reply.
    """

    def __init__(self, random: Random, bytes_mean: float) -> None:
        super().__init__(lost_ack=0)
        self.cuts = 0
        self._random = random
        self._bytes_mean = bytes_mean

    def stop_cutting(self) -> None:
        """Close no connection from now on."""
        self._bytes_mean = math.inf

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_answer: bool = False) -> None:
        left = int(self._random.expovariate(1 / self._bytes_mean)) if self._bytes_mean < math.inf else None
        while chunk := await reader.read(65536):
            if left is not None and left < len(chunk) and self._bytes_mean < math.inf:
                writer.write(chunk[:left])
                await writer.drain()
                self.cuts += 1
                if not is_answer and self._random.random() < 0.5:
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    writer.transport.abort()
                return
            left = None if left is None else left - len(chunk)
            writer.write(chunk)
            await writer.drain()
