"""Messages over a Unix socket: four bytes of length, then msgpack. Knows frames, not what is in them."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Generic, TypeVar

import msgspec

MessageT = TypeVar("MessageT")

_LENGTH = struct.Struct("<I")
_READ_LIMIT = 1 << 20


def encode_frame(message: msgspec.Struct) -> bytearray:
    """Encode a message with its length before it."""
    frame = bytearray(_LENGTH.size)
    msgspec.msgpack.Encoder().encode_into(message, frame, _LENGTH.size)
    _LENGTH.pack_into(frame, 0, len(frame) - _LENGTH.size)
    return frame


class Connection(Generic[MessageT]):
    """One end of the socket; what comes in are messages of a type."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, decoder: "msgspec.msgpack.Decoder[MessageT]"
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = decoder

    def send(self, message: msgspec.Struct) -> None:
        """Send a message; it is dropped when the other end is gone, which the reader notices."""
        self.write(encode_frame(message))

    def write(self, frame: bytes | bytearray) -> None:
        """Send a message that ``encode_frame`` has encoded, wherever; it is dropped as by ``send``."""
        if not self._writer.is_closing():
            self._writer.write(frame)

    async def messages(self) -> AsyncIterator[MessageT]:
        """Yield what comes in until the other end is gone."""
        while True:
            try:
                (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
                frame = await self._reader.readexactly(length)
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            yield self._decoder.decode(frame)

    async def flush(self) -> None:
        """Wait until what was sent is in the system's hands."""
        await self._writer.drain()

    def hang_up(self) -> None:
        """Send what was written and end the line; ``messages`` ends, too."""
        self._writer.close()

    async def close(self) -> None:
        """Hang up, and wait until that is done."""
        self.hang_up()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


async def connect(path: str, decoder: "msgspec.msgpack.Decoder[MessageT]") -> Connection[MessageT]:
    """Connect to the socket at ``path``; OSError when nobody listens there."""
    return Connection(*await asyncio.open_unix_connection(path, limit=_READ_LIMIT), decoder)
