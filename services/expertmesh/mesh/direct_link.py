"""A link over a blocking socket. Knows frames and sockets, not how both sides agreed on one.

Answers are received where they stay: each has memory of its own, so none is overwritten by the next.
"""

import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch

from expertmesh.mesh.link import LinkLostError
from expertmesh.mesh.rooms import Owed, Rooms
from expertmesh.rpc.channels import MAX_MESSAGE_BYTES
from expertmesh.rpc.exact_io import be_patient, rest_of
from expertmesh.rpc.shared_memory import SharedMemory
from expertmesh.rpc.tls_socket import TlsSocket, has_read_ahead, poll
from expertmesh.wire.calls import ExpertCall, ExpertResult
from expertmesh.wire.failures import CallFailure, WireError
from expertmesh.wire.frames import (
    HEADER_BYTES,
    Header,
    Kind,
    decode_failure,
    decode_header,
    decode_result,
    empty_partial,
    encode_call,
    find_damage,
)
from expertmesh.wire.room import Room

_log = logging.getLogger(__name__)

# How long a blocking read lasts before the clock is looked at; setting it for each read would be a further system call.
TICK_SECONDS = 0.25
# A server that takes nothing for so long is computing: what it has not taken is kept for it, and the caller goes on.
STALL_SECONDS = 0.002
# Smaller calls are faster through the socket.
MIN_SHARED_BYTES = 128 * 1024

_NOTHING = torch.empty(0)


class DirectLink:
    """See ``Link``. ``connection`` has shown its token; ``on_close`` is called once, when it is closed.

    Large calls and their answers lie in ``memory`` that the server shares, where there is some.
    """

    def __init__(
        self,
        connection: socket.socket,
        endpoint: str,
        on_close: Callable[[], None] = lambda: None,
        memory: SharedMemory | None = None,
    ) -> None:
        connection.settimeout(None)
        self.transport = _name(connection)
        self._in_use = threading.Lock()  # so that no other thread closes a socket that is read
        self._connection = connection
        self._endpoint = endpoint
        self._on_close = on_close
        # Why nothing can be sent any more, and why nor be received: what was answered before is there until then. As
        # text, because an exception that was raised knows its callers and keeps what they hold.
        self._lost = ""
        self._ended = ""
        self._is_closed = False
        self._rooms = None if memory is None else Rooms(memory)
        self._owed: dict[int, Owed] = {}
        self._wanted: set[int] = set()
        self._arrived: dict[int, ExpertResult | CallFailure] = {}
        self._unsent: list[memoryview] = []
        self._patience_seconds = 0.0
        self._header_bytes = memoryview(bytearray(HEADER_BYTES))
        self._missing = self._header_bytes
        self._header: Header | None = None
        self._partial = _NOTHING
        self._spare: tuple[tuple[int, int], torch.Tensor, memoryview] | None = None

    def take_room(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor | None:
        """See ``Link``."""
        rooms = self._rooms
        is_large = shape[0] * shape[1] * dtype.itemsize >= MIN_SHARED_BYTES
        return rooms.take(shape, dtype) if rooms is not None and is_large else None

    def send(self, call_id: int, call: ExpertCall) -> int:
        """See ``Link``; WireError for a call that no frame can hold."""
        room = self._room_of(call.hidden)
        frame = encode_call(call_id, call, room.place if room else 0)
        with self._in_use:
            _check(self._lost)
            self._owed[call_id] = Owed((call.hidden.shape[0], call.hidden.shape[1]), room)
            self._wanted.add(call_id)
            if self._unsent:
                self._unsent += _copy(frame)
                self._flush()
            else:
                self._transmit(frame)
        return call.num_bytes

    def receive(self, call_id: int, timeout_seconds: float) -> ExpertResult:
        """See ``Link``."""
        deadline = time.monotonic() + timeout_seconds
        with self._in_use:
            while (outcome := self._arrived.pop(call_id, None)) is None:
                if call_id not in self._wanted:
                    raise KeyError(f"call {call_id} was not sent, was answered before or is forgotten")
                _check(self._ended)
                self._read(deadline)
        self._wanted.discard(call_id)
        if isinstance(outcome, ExpertResult):
            return outcome
        try:
            raise outcome
        finally:
            del outcome  # its traceback knows this frame and, further up, the call, whose room it would keep

    def forget(self, call_id: int) -> None:
        """See ``Link``."""
        self._wanted.discard(call_id)
        self._arrived.pop(call_id, None)

    def close(self) -> None:
        """See ``Link``."""
        self.end()  # wakes who waits for an answer
        with self._in_use:
            self._end("the link was closed")
            is_first, self._is_closed = not self._is_closed, True
            self._connection.close()
        if is_first:
            self._on_close()

    def end(self) -> None:
        """Have the thread that uses the link find it lost; for any other thread."""
        with suppress(OSError):  # it is lost already
            self._connection.shutdown(socket.SHUT_RDWR)

    def _room_of(self, hidden: torch.Tensor) -> Room | None:
        rooms = self._rooms
        return None if rooms is None or hidden.nbytes < MIN_SHARED_BYTES else rooms.room_of(hidden)

    def _lose(self, error: OSError) -> LinkLostError:
        self._unsent = []
        self._lost = f"replica {self._endpoint}: {error}"
        return LinkLostError(self._lost)

    def _end(self, reason: object) -> LinkLostError:
        self._unsent = []
        self._owed.clear()
        self._rooms = None
        self._ended = f"replica {self._endpoint}: {reason}"
        self._lost = self._lost or self._ended
        return LinkLostError(self._ended)

    def _transmit(self, frame: Sequence[Any]) -> None:
        try:
            rest = rest_of(frame, self._connection.sendmsg(frame, (), socket.MSG_DONTWAIT))
        except BlockingIOError:
            rest = rest_of(frame, 0)
        except OSError as error:
            raise self._lose(error) from error
        while rest:
            # Answers are read meanwhile: a server that cannot write does not read.
            if not self._poll(select.POLLIN | select.POLLOUT, STALL_SECONDS):
                self._unsent = _copy(rest)
                return
            rest = self._send_some(rest)

    def _flush(self) -> None:
        while self._unsent and self._poll(select.POLLOUT, 0):
            self._unsent = self._send_some(self._unsent)

    def _send_some(self, buffers: Sequence[memoryview]) -> list[memoryview]:
        try:
            return rest_of(buffers, self._connection.sendmsg(buffers, (), socket.MSG_DONTWAIT))
        except BlockingIOError:
            self._read_some(socket.MSG_DONTWAIT)
            return list(buffers)
        except OSError as error:
            raise self._lose(error) from error

    def _poll(self, events: int, timeout_seconds: float) -> bool:
        is_there = events & select.POLLIN and has_read_ahead(self._connection)
        return bool(is_there) or poll(self._connection, events, timeout_seconds)

    def _read(self, deadline: float) -> None:
        """Read what comes next, a frame or a part of it; TimeoutError when nothing does before ``deadline``."""
        remaining = deadline - time.monotonic()
        while self._unsent:
            if not self._poll(select.POLLIN | select.POLLOUT, max(remaining, 0)):
                raise self._timeout()
            try:
                self._unsent = self._send_some(self._unsent)
            except LinkLostError:
                _check(self._ended)
            if self._arrived:
                return
            remaining = deadline - time.monotonic()
        if remaining > 0:
            self._be_patient(remaining)
            received = self._read_some(0)
        else:
            received = self._read_some(socket.MSG_DONTWAIT)
        if not received and remaining <= TICK_SECONDS:
            raise self._timeout()

    def _read_some(self, flags: int) -> bool:
        """Receive into what is expected; False when nothing is there."""
        is_alone = len(self._owed) == 1 and self._missing is self._header_bytes
        memory = self._memory_ahead() if is_alone else None
        try:
            if memory is None:
                count = self._connection.recv_into(self._missing, 0, flags)
            else:
                count = self._connection.recvmsg_into((self._missing, memory), 0, flags)[0]
        except BlockingIOError:
            return False
        except OSError as error:
            raise self._end(error) from error
        if not count:
            raise self._end("the connection ended")
        num_ahead = max(count - len(self._missing), 0)
        self._missing = self._missing[count:]
        if not self._missing:
            self._advance(num_ahead)
        return True

    def _memory_ahead(self) -> memoryview | None:
        """Make memory for the only answer that can come, while it is awaited: so one read takes header and body."""
        [(shape, room)] = self._owed.values()
        if room is not None:
            return None
        if self._spare is None or self._spare[0] != shape:
            self._spare = shape, *empty_partial(shape)
        return self._spare[2]

    def _be_patient(self, remaining: float) -> None:
        seconds = TICK_SECONDS if remaining >= TICK_SECONDS else max(remaining, 1e-4)
        if seconds != self._patience_seconds:
            self._patience_seconds = seconds
            be_patient(self._connection, seconds)

    def _advance(self, num_ahead: int) -> None:
        """Go on from a header to its body, of which ``num_ahead`` bytes came along, from a body to the next header."""
        try:
            if self._header is None:
                self._expect_body(decode_header(self._header_bytes, MAX_MESSAGE_BYTES), num_ahead)
                if self._missing:
                    return
            self._finish()
        except WireError as error:
            _log.warning("giving up the link to %s: %s", self._endpoint, error)
            self.end()
            raise self._end(error) from error
        self._expect_header()

    def _expect_header(self) -> None:
        self._header = None
        self._missing = self._header_bytes

    def _expect_body(self, header: Header, num_ahead: int) -> None:
        if num_ahead > header.num_body_bytes:
            raise WireError(f"{num_ahead} bytes follow the header of the only answer, which announces {header}")
        owed = self._owed.pop(header.call_id, None)
        if owed is None:
            raise WireError(f"an answer to call {header.call_id}, which was not asked")
        self._header = header
        if header.kind is Kind.RESULT and header.place:
            self._partial, memory = owed.find(header), memoryview(b"")
        elif header.kind is Kind.RESULT:
            memory = self._expect_result((header.num_rows, header.width))
        elif header.kind is Kind.FAILURE:
            memory = self._text = memoryview(bytearray(header.num_text_bytes))
        else:
            raise WireError(f"a server sent a frame of kind {header.kind.name}; RESULT or FAILURE would be right")
        if num_ahead and self._spare is not None:
            memory[:num_ahead] = self._spare[2][:num_ahead]
        self._missing = memory[num_ahead:]

    def _expect_result(self, shape: tuple[int, int]) -> memoryview:
        """Take the memory made for it, where the body may lie already, unless the answer has another shape."""
        if self._spare is not None and self._spare[0] == shape:
            (_, self._partial, memory), self._spare = self._spare, None
        else:
            self._partial, memory = empty_partial(shape)
        return memory

    def _finish(self) -> None:
        header = self._header
        assert header is not None, "a body has a header"
        if header.call_id in self._wanted:
            is_result = header.kind is Kind.RESULT
            damage = find_damage(header, self._partial if is_result else self._text)
            outcome = decode_result(header, self._partial) if is_result else decode_failure(header, self._text)
            self._arrived[header.call_id] = damage or outcome
        self._partial = _NOTHING  # whoever wants it has it now

    def _timeout(self) -> TimeoutError:
        return TimeoutError(f"replica {self._endpoint} did not answer in time")


def _name(connection: socket.socket) -> str:
    if connection.family is socket.AF_UNIX:
        return "a Unix socket"
    return "TCP with TLS" if isinstance(connection, TlsSocket) else "TCP"


def _check(reason: str) -> None:
    if reason:
        raise LinkLostError(reason)


def _copy(buffers: Sequence[Any]) -> list[memoryview]:
    """Copy what is not sent yet: the caller may overwrite its tensors."""
    return [memoryview(memoryview(buffer).tobytes()) for buffer in buffers]
