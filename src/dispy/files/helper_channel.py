"""Messages between a node and a file helper, with open descriptors beside them, over a socket.

A message is its length (4 bytes, little-endian) and msgpack (``protocol.file_helper``).
"""

from __future__ import annotations

import os
import socket
import struct

from msgspec import Struct

from dispy.protocol.file_helper import DESCRIPTORS_MAX, encode

LENGTH = struct.Struct("<I")
"""Format of the length that precedes each message (bytes)."""

MESSAGE_MAX = 64 << 20
"""Bytes of the largest message: a list of files, such as those of a package, is sent at once."""


def send(channel: socket.socket, message: Struct, descriptors: list[int]) -> None:
    """Send a message with descriptors beside it, which stay the caller's.

    Raises:
        OSError: The peer is gone, or takes nothing within the socket's timeout.
    """
    body = encode(message)
    data = memoryview(LENGTH.pack(len(body)) + body)
    sent = socket.send_fds(channel, [data], descriptors)
    if sent < len(data):
        channel.sendall(data[sent:])


def receive(channel: socket.socket) -> tuple[bytes, list[int]] | None:
    """Returns the next message, and the descriptors beside it, which are the caller's; None if the peer is gone.

    Raises:
        OSError: Nothing came within the socket's timeout, or what came is no message.
    """
    data, descriptors, _, _ = socket.recv_fds(
        channel, LENGTH.size, DESCRIPTORS_MAX, socket.MSG_CMSG_CLOEXEC
    )
    try:
        if not data:
            return None
        head = data + _exactly(channel, LENGTH.size - len(data))
        (size,) = LENGTH.unpack(head)
        if size > MESSAGE_MAX:
            raise ConnectionError(f"a message of {size} bytes")
        return _exactly(channel, size), descriptors
    except BaseException:
        close_all(descriptors)
        raise


def _exactly(channel: socket.socket, size: int) -> bytes:
    """Read ``size`` bytes; raises ConnectionError if the peer is gone before."""
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = channel.recv_into(view)
        if not count:
            raise ConnectionError("it ended in the middle of a message")
        view = view[count:]
    return bytes(data)


def close_all(descriptors: list[int]) -> None:
    """Close descriptors that came beside a message."""
    for descriptor in descriptors:
        os.close(descriptor)
