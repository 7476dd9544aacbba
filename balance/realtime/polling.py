"""The packets of a polling request (Engine.IO 4, "HTTP long-polling")."""

from __future__ import annotations

from base64 import b64decode

from engineio import packet as eio_packet
from engineio.packet import Packet

import protocol

PACKETS_MAX = 16_384  # in one request: all of them are decoded at once
POLL_PACKETS_MAX = 16  # in one answer: the clients of python-socketio drop the connection over more
SEPARATOR = "\x1e"  # between the packets of one request or answer
# A client sends CLOSE, PONG, MESSAGE and, by polling, BINARY; NOOP is sent to it.
CLOSE, PONG, MESSAGE, NOOP, BINARY = "1", "3", "4", "6", "b"


def read_packets(body: bytes) -> list[Packet]:
    """Return the packets of a request; the library would drop a bad one whole and answer 200.

    Raises PayloadTooLarge if there are too many, and MalformedJson if the body is not a list of packets.
    """
    if body.count(SEPARATOR.encode()) >= PACKETS_MAX:
        raise protocol.PayloadTooLarge(f"holds more than {PACKETS_MAX} packets", "payload")
    try:
        return [read_packet(text) for text in body.decode().split(SEPARATOR)]
    except UnicodeDecodeError as error:
        raise protocol.MalformedJson("is not valid UTF-8", "payload") from error


def read_packet(text: str) -> Packet:
    """Return one packet, whose message Socket.IO decodes. Raises MalformedJson."""
    if text[:1] == BINARY:
        try:
            return Packet(eio_packet.MESSAGE, b64decode(text[1:], validate=True))
        except ValueError as error:
            raise protocol.MalformedJson("is not base64 after the b of a binary packet", "payload") from error
    if text != CLOSE and text[:1] not in (PONG, MESSAGE):
        raise protocol.MalformedJson("is not a list of Engine.IO packets of the types 1, 3 and 4", "payload")
    return Packet(int(text[0]), text[1:])


def write_packets(packets: list[Packet]) -> str:
    """Return the body of an answer."""
    return SEPARATOR.join([packet.encode() for packet in packets])
