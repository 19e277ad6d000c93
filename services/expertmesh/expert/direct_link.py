"""One caller's socket: calls are read, run and answered in the link's thread. Knows frames, not who may connect."""

import hmac
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import NamedTuple

import torch

from expertmesh.expert.budget import CallBudget
from expertmesh.expert.frame_reader import FrameReader
from expertmesh.expert.job import CallJob, CallRunner, Outcome, Seat
from expertmesh.rpc.exact_io import limit_stalls, receive_exactly, send_exactly
from expertmesh.rpc.shared_memory import SharedMemory, take_shared
from expertmesh.wire.calls import ExpertCall, ExpertResult
from expertmesh.wire.failures import CallFailure, FailureCode, WireError
from expertmesh.wire.frames import (
    HEADER_BYTES,
    MAX_TEXT_BYTES,
    Kind,
    decode_header,
    encode_outcome,
    encode_welcome,
)
from expertmesh.wire.room import Room

_log = logging.getLogger(__name__)

# A caller has one to show; no kernel lets more come along than 253.
MAX_DESCRIPTORS = 253
# A caller that takes nothing of an answer, or stops within a call, for so long is hung up on.
STALL_SECONDS = 30.0


class Caller(NamedTuple):
    """Who has shown the token: the connection, and perhaps memory to share."""

    connection: socket.socket
    memory: SharedMemory | None


def meet(connection: socket.socket, token: bytes, timeout_seconds: float) -> Caller | None:
    """Return the caller when what comes within the time is a HELLO frame with ``token``."""
    connection.settimeout(timeout_seconds)
    try:
        with _receive_descriptors(connection) as (data, descriptors):
            if not hmac.compare_digest(_receive_token(connection, data), token):
                return None
            return Caller(connection, _take_memory(descriptors))
    except (OSError, EOFError, WireError):
        return None
    finally:
        connection.settimeout(None)


class DirectLink:
    """Serves ``caller``: ``serve`` in a thread of its own, the rest from any."""

    def __init__(self, caller: Caller, executor: CallRunner, budget: CallBudget) -> None:
        self._connection, self._memory = caller
        self._executor = executor
        self._budget = budget
        self._seat = Seat()
        self._job: CallJob | None = None
        self._is_draining = False

    @torch.inference_mode()
    def serve(self) -> None:
        """Welcome the caller, then answer call after call until either end closes, or what comes is no call."""
        limit_stalls(self._connection, STALL_SECONDS)
        reader = FrameReader(self._connection, self._budget, self._memory)
        try:
            send_exactly(self._connection, encode_welcome(self._memory is not None))
            while self._serve_next(reader):
                if self._is_draining:
                    self._end_reading()
        except BlockingIOError:
            _log.warning("ending a link: its caller took nothing of an answer for %g s", STALL_SECONDS)
        except (WireError, EOFError) as error:
            _log.warning("ending a link: %s", error)
        except OSError as error:
            _log.debug("a link ended: %s", error)
        finally:
            reader.close()
            self._memory = None  # its descriptor shall not wait for whoever still knows this link

    def drain(self) -> None:
        """Answer the call that was read and refuse those that lie in the socket, then end."""
        self._is_draining = True
        # Between two calls the thread sees that by itself; while it reads it does not.
        if self._job is None:
            self._end_reading()

    def close(self) -> None:
        """End at once; a call that waits is not run."""
        job = self._job
        if job is not None and self._executor.cancel(job):
            job.on_done(CallFailure(FailureCode.DRAINING, "the link was closed"))
        _shut_down(self._connection, socket.SHUT_RDWR)

    def _serve_next(self, reader: FrameReader) -> bool:
        """Answer a call, and know it no more; False when the caller has closed."""
        call = reader.read()
        if call is not None:
            self._answer(*call)
        return call is not None

    def _answer(self, call_id: int, call: ExpertCall | CallFailure, room: Room | None) -> None:
        if isinstance(call, CallFailure):
            self._executor.refuse(call)
            self._reply(call_id, room, call)
            return
        job = self._job = self._seat.job(call, room.partial if room else None)
        reply = partial(self._reply, call_id, room)
        try:
            self._executor.run(job, self._seat, reply)
        except CallFailure as failure:
            reply(failure)
        finally:
            self._job = None

    def _reply(self, call_id: int, room: Room | None, outcome: Outcome) -> None:
        is_placed = room is not None and isinstance(outcome, ExpertResult) and _place(outcome.partial, room)
        send_exactly(self._connection, encode_outcome(call_id, outcome, room.place if room and is_placed else 0))

    def _end_reading(self) -> None:
        _shut_down(self._connection, socket.SHUT_RD)


@contextmanager
def _receive_descriptors(connection: socket.socket) -> Iterator[tuple[bytes, list[int]]]:
    """Receive the beginning of a frame, and the descriptors that came with it, which are closed after ``with``.

    Only Unix sockets carry any.
    """
    if connection.family is not socket.AF_UNIX:
        begin = bytearray(HEADER_BYTES)
        yield bytes(begin[: connection.recv_into(begin)]), []
        return
    data, descriptors, *_ = socket.recv_fds(connection, HEADER_BYTES, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    try:
        yield data, descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _receive_token(connection: socket.socket, begin: bytes) -> bytes:
    data = memoryview(bytearray(HEADER_BYTES))
    data[: len(begin)] = begin
    if not begin or not receive_exactly(connection, data[len(begin) :]):
        return b""
    header = decode_header(data, MAX_TEXT_BYTES)
    if header.kind is not Kind.HELLO:
        return b""
    token = bytearray(header.num_body_bytes)
    if token and not receive_exactly(connection, memoryview(token)):
        raise EOFError(f"the connection ended before the {header.num_body_bytes} bytes of a token")
    return bytes(token)


def _take_memory(descriptors: Sequence[int]) -> SharedMemory | None:
    try:
        return take_shared(descriptors[0]) if descriptors else None
    except OSError as error:
        _log.warning("a caller's memory is not shared: %s", error)
        return None


def _place(partial: torch.Tensor, room: Room) -> bool:
    """Have partial rows in a room, where they lie already unless they were computed beside others, if they fit."""
    if partial.shape != room.partial.shape:
        return False
    if partial is not room.partial:
        room.partial.copy_(partial)
    return True


def _shut_down(connection: socket.socket, how: int) -> None:
    with suppress(OSError):  # it has ended by itself
        connection.shutdown(how)
