"""Calls off a socket: each with one system call where it has arrived whole. Knows frames, not who runs them."""

import socket
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from expertmesh.expert.budget import CallBudget, held_bytes
from expertmesh.rpc.channels import MAX_MESSAGE_BYTES
from expertmesh.rpc.shared_memory import SharedMemory
from expertmesh.wire.calls import ExpertCall
from expertmesh.wire.failures import CallFailure, WireError, without_traceback
from expertmesh.wire.frames import HEADER_BYTES, Header, Kind, decode_call, decode_header, find_damage
from expertmesh.wire.room import Room, open_room, room_bytes, start_of

MIN_MEMORY_BYTES = 64 * 1024
# A link that is idle keeps no more than this; a larger frame gets memory of its own.
MAX_KEPT_BYTES = 1024 * 1024


class ReadCall(NamedTuple):
    """A call, valid until the next is read; its answer may lie in ``room``, if it came in one.

    CallFailure instead for one that was damaged on its way, or for which there is no room.
    """

    call_id: int
    call: ExpertCall | CallFailure
    room: Room | None


class FrameReader:
    """Receives ahead into memory that grows with the frames, up to a bound, and is used again for every one.

    What frames leave out is in ``shared`` memory, when there is some. What a call and its answer take is of ``budget``,
    until the next is read or the reader is closed.
    """

    def __init__(self, connection: socket.socket, budget: CallBudget, shared: SharedMemory | None = None) -> None:
        self._connection = connection
        self._budget = budget
        self._shared = shared
        self._memory = memoryview(bytearray(MIN_MEMORY_BYTES))
        self._num_read = 0  # bytes of the frame that was read last
        self._num_received = 0
        self._num_taken = 0  # bytes of the budget

    def read(self) -> ReadCall | None:
        """Read a call, None when the caller has closed.

        WireError for what is no call, EOFError when the connection ends within one, or nothing more of one comes.
        """
        self._let_go()
        if not self._receive(HEADER_BYTES):
            return None
        header = decode_header(self._memory[:HEADER_BYTES], MAX_MESSAGE_BYTES)
        if header.kind is not Kind.CALL:
            raise WireError(f"a caller sent a frame of kind {header.kind.name}; CALL would be right")
        room = self._room_of(header) if header.place else None
        try:
            self._take(header)
        except CallFailure as failure:
            self._skip(header)
            return ReadCall(header.call_id, without_traceback(failure), None)
        self._num_read = HEADER_BYTES + header.num_body_bytes
        self._receive(self._num_read)
        body, hidden = self._memory[HEADER_BYTES : self._num_read], room.hidden if room else None
        damage = find_damage(header, body) if hidden is None else find_damage(header, body, hidden)
        return ReadCall(header.call_id, damage or decode_call(header, body, hidden), room)

    def close(self) -> None:
        """Need the call that was read last no more."""
        self._budget.give_back(self._num_taken)
        self._num_taken = 0

    def _take(self, header: Header) -> None:
        """Take bytes for a frame and its answer; those of calls in shared memory are their callers'."""
        shape = (0, 0) if header.place else (header.num_rows, header.width)
        num_bytes = held_bytes(header.num_body_bytes, shape)
        self._budget.take(num_bytes)
        self._num_taken = num_bytes

    def _skip(self, header: Header) -> None:
        """Receive a body piece by piece, and keep nothing of it."""
        num_left = header.num_body_bytes
        self._num_read = HEADER_BYTES
        while num_left:
            self._move_up()
            num_bytes = min(num_left, MIN_MEMORY_BYTES)
            self._receive(num_bytes)
            self._num_read = num_bytes
            num_left -= num_bytes

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

    def _let_go(self) -> None:
        """Be done with the last frame."""
        self._move_up()
        if len(self._memory) > MAX_KEPT_BYTES:  # made for that frame alone, so nothing was received behind it
            self._memory = memoryview(bytearray(MIN_MEMORY_BYTES))
        self.close()

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
            count = self._receive_some()
            if not count and not self._num_received:
                return False
            if not count:
                raise EOFError(f"the connection ended after {self._num_received} of {num_bytes} bytes of a frame")
            self._num_received += count
        return True

    def _receive_some(self) -> int:
        """Receive what has come; before the first byte of a frame that may take as long as it likes."""
        while not self._num_received and not self._num_taken:
            with suppress(BlockingIOError):
                return self._connection.recv_into(self._memory)
        try:
            return self._connection.recv_into(self._memory[self._num_received :])
        except BlockingIOError:
            raise EOFError(f"a caller stopped after {self._num_received} bytes of a frame") from None

    def _grow(self, num_bytes: int) -> None:
        if num_bytes > len(self._memory):
            size = num_bytes if num_bytes > MAX_KEPT_BYTES else 1 << (num_bytes - 1).bit_length()
            memory = np.empty(size, np.uint8).data.cast("B")
            memory[: self._num_received] = self._memory[: self._num_received]
            self._memory = memory
