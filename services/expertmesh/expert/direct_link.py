"""One caller's socket: calls are read, run and answered in the link's thread. Knows frames, not who may connect."""

import hmac
import logging
import socket
from contextlib import suppress
from functools import partial

import torch

from expertmesh.expert.frame_reader import FrameReader
from expertmesh.expert.job import CallJob, CallRunner, Outcome, Seat
from expertmesh.rpc.exact_io import receive_exactly, send_exactly
from expertmesh.wire.calls import ExpertCall
from expertmesh.wire.failures import CallFailure, FailureCode, WireError
from expertmesh.wire.frames import (
    HEADER_BYTES,
    MAX_TEXT_BYTES,
    Kind,
    decode_header,
    encode_outcome,
    encode_welcome,
)

_log = logging.getLogger(__name__)


def shows_token(connection: socket.socket, token: bytes, timeout_seconds: float) -> bool:
    """Whether what comes within the time is a HELLO frame with ``token``."""
    connection.settimeout(timeout_seconds)
    try:
        return hmac.compare_digest(_receive_hello(connection), token)
    except (OSError, EOFError, WireError):
        return False
    finally:
        connection.settimeout(None)


class DirectLink:
    """Serves the caller at the other end of ``connection``: ``serve`` in a thread of its own, the rest from any."""

    def __init__(self, connection: socket.socket, executor: CallRunner) -> None:
        self._connection = connection
        self._executor = executor
        self._seat = Seat()
        self._reader = FrameReader(connection)
        self._job: CallJob | None = None
        self._is_draining = False

    @torch.inference_mode()
    def serve(self) -> None:
        """Welcome the caller, then answer call after call until either end closes, or what comes is no call."""
        try:
            send_exactly(self._connection, encode_welcome())
            while (call := self._reader.read()) is not None:
                self._answer(*call)
                if self._is_draining:
                    self._end_reading()
        except (WireError, EOFError) as error:
            _log.warning("ending a link: %s", error)
        except OSError as error:
            _log.debug("a link ended: %s", error)

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

    def _answer(self, call_id: int, call: ExpertCall) -> None:
        job = self._job = self._seat.job(call)
        reply = partial(self._reply, call_id)
        try:
            self._executor.run(job, self._seat, reply)
        except CallFailure as failure:
            reply(failure)
        finally:
            self._job = None

    def _reply(self, call_id: int, outcome: Outcome) -> None:
        send_exactly(self._connection, encode_outcome(call_id, outcome))

    def _end_reading(self) -> None:
        _shut_down(self._connection, socket.SHUT_RD)


def _receive_hello(connection: socket.socket) -> bytes:
    data = memoryview(bytearray(HEADER_BYTES))
    if not receive_exactly(connection, data):
        return b""
    header = decode_header(data, MAX_TEXT_BYTES)
    if header.kind is not Kind.HELLO:
        return b""
    token = bytearray(header.num_body_bytes)
    if token and not receive_exactly(connection, memoryview(token)):
        raise EOFError(f"the connection ended before the {header.num_body_bytes} bytes of a token")
    return bytes(token)


def _shut_down(connection: socket.socket, how: int) -> None:
    with suppress(OSError):  # it has ended by itself
        connection.shutdown(how)
