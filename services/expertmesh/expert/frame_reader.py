"""Calls off a socket: each with one system call where it has arrived whole. Knows frames, not who runs them."""

import socket
from typing import NamedTuple

from expertmesh.rpc.channels import MAX_MESSAGE_BYTES
from expertmesh.rpc.shared_memory import SharedMemory
from expertmesh.wire.calls import ExpertCall
from expertmesh.wire.failures import CallFailure, WireError
from expertmesh.wire.frames import HEADER_BYTES, Header, Kind, decode_call, decode_header, find_damage
from expertmesh.wire.room import Room, open_room, room_bytes, start_of

MIN_MEMORY_BYTES = 64 * 1024


class ReadCall(NamedTuple):
    """A call, valid until the next is read; its answer may lie in ``room``, if it came in one.

    CallFailure instead for one that was damaged on its way.
    """

    call_id: int
    call: ExpertCall | CallFailure
    room: Room | None


class FrameReader:
    """Receives ahead into memory that grows with the largest frame and is used again for every one.

    What frames leave out is in ``shared`` memory, when there is some.
    """

    def __init__(self, connection: socket.socket, shared: SharedMemory | None = None) -> None:
        self._connection = connection
        self._shared = shared
        self._memory = memoryview(bytearray(MIN_MEMORY_BYTES))
        self._num_read = 0  # bytes of the frame that was read last
        self._num_received = 0

    def read(self) -> ReadCall | None:
        """Read a call, None when the caller has closed.

        WireError for what is no call, EOFError when the connection ends within one.
        """
        self._move_up()
        if not self._receive(HEADER_BYTES):
            return None
        header = decode_header(self._memory[:HEADER_BYTES], MAX_MESSAGE_BYTES)
        if header.kind is not Kind.CALL:
            raise WireError(f"a caller sent a frame of kind {header.kind.name}; CALL would be right")
        self._num_read = HEADER_BYTES + header.num_body_bytes
        self._receive(self._num_read)
        room = self._room_of(header) if header.place else None
        body, hidden = self._memory[HEADER_BYTES : self._num_read], room.hidden if room else None
        damage = find_damage(header, body) if hidden is None else find_damage(header, body, hidden)
        return ReadCall(header.call_id, damage or decode_call(header, body, hidden), room)

    def _room_of(self, header: Header) -> Room:
        shape, dtype = (header.num_rows, header.width), header.dtype
        assert dtype is not None, "decode_header lets no call without pass"
        start, num_bytes = start_of(header.place), room_bytes(shape, dtype)
        num_shared = self._shared.num_bytes if self._shared else 0
        if self._shared is None or not num_bytes or start + num_bytes > num_shared:
            raise WireError(
                f"a call of {num_bytes} bytes with its answer lies at place {header.place}, byte {start}, of "
                f"{num_shared} shared bytes"
            )
        return open_room(header.place, self._shared.view(start, num_bytes), shape, dtype)

    def _move_up(self) -> None:
        """Put what was received behind the last frame where it began."""
        num_ahead = self._num_received - self._num_read
        if num_ahead:
            self._memory[:num_ahead] = bytes(self._memory[self._num_read : self._num_received])
        self._num_read, self._num_received = 0, num_ahead

    def _receive(self, num_bytes: int) -> bool:
        """Have that many bytes of a frame; False when the caller has closed before the first."""
        self._grow(num_bytes)
        while self._num_received < num_bytes:
            count = self._connection.recv_into(self._memory[self._num_received :])
            if not count and not self._num_received:
                return False
            if not count:
                raise EOFError(f"the connection ended after {self._num_received} of {num_bytes} bytes of a frame")
            self._num_received += count
        return True

    def _grow(self, num_bytes: int) -> None:
        if num_bytes > len(self._memory):
            memory = memoryview(bytearray(1 << (num_bytes - 1).bit_length()))
            memory[: self._num_received] = self._memory[: self._num_received]
            self._memory = memory
