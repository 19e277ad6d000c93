"""A link over a Dispatch stream of gRPC. Knows messages and threads, not which replica is called."""

import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

import grpc
import torch

from expertmesh.mesh.answers import ReplicaFaultError
from expertmesh.mesh.link import LinkLostError
from expertmesh.rpc.metadata import FINGERPRINT_KEY
from expertmesh.v1 import expert_pb2, expert_pb2_grpc
from expertmesh.wire.calls import ExpertCall, ExpertResult, decode_response, encode_request
from expertmesh.wire.failures import CallFailure, WireError


class GrpcLink:
    """See ``Link``. ``on_end`` is called once the stream ends, in any thread, ``on_close`` once, when it is closed.

    gRPC writes in a thread of its own and a second one reads, since its synchronous stream cannot be waited for with a
    timeout. Messages are decoded in the thread that uses the link.
    """

    transport = "gRPC"

    def __init__(
        self,
        channel: grpc.Channel,
        endpoint: str,
        fingerprint: str,
        on_end: Callable[[], None] = lambda: None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self._endpoint = endpoint
        self._on_end = on_end
        self._on_close = on_close
        self._is_closed = False
        self._lost: LinkLostError | None = None
        self._wanted: set[int] = set()
        self._arrived: dict[int, expert_pb2.DispatchResponse] = {}
        self._unsent: SimpleQueue[expert_pb2.DispatchRequest | None] = SimpleQueue()
        self._received: SimpleQueue[expert_pb2.DispatchResponse | LinkLostError] = SimpleQueue()
        stub = expert_pb2_grpc.ExpertServiceStub(channel)
        self._stream = stub.Dispatch(iter(self._unsent.get, None), metadata=((FINGERPRINT_KEY, fingerprint),))
        self._reader = threading.Thread(target=self._read, name="grpc-link", daemon=True)
        self._reader.start()

    def take_room(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor | None:
        """See ``Link``: messages are made of whatever there is."""
        return None

    def send(self, call_id: int, call: ExpertCall) -> int:
        """See ``Link``."""
        request = encode_request(call_id, call)
        if not self._lost and not self._stream.is_active():
            self._take_all()
        self._check()
        self._wanted.add(call_id)
        self._unsent.put(request)
        return call.num_bytes

    def receive(self, call_id: int, timeout_seconds: float) -> ExpertResult:
        """See ``Link``."""
        deadline = time.monotonic() + timeout_seconds
        while (response := self._arrived.pop(call_id, None)) is None:
            if call_id not in self._wanted:
                raise KeyError(f"call {call_id} was not sent, was answered before or is forgotten")
            self._check()
            self._take(max(deadline - time.monotonic(), 0))
        self._wanted.discard(call_id)
        return self._open(response)

    def forget(self, call_id: int) -> None:
        """See ``Link``."""
        self._wanted.discard(call_id)
        self._arrived.pop(call_id, None)

    def close(self) -> None:
        """See ``Link``."""
        self._lost = self._lost or LinkLostError(f"replica {self._endpoint}: the link was closed")
        if not self._is_closed:
            self._is_closed = True
            self._unsent.put(None)
            self._stream.cancel()
            self._reader.join()
            self._on_close()

    def _read(self) -> None:
        try:
            for response in self._stream:
                self._received.put(response)
            reason = "the stream ended"
        except grpc.RpcError as error:
            reason = _describe(error)
        self._unsent.put(None)  # ends the thread that writes
        self._received.put(LinkLostError(f"replica {self._endpoint}: {reason}"))
        self._on_end()

    def _take(self, timeout_seconds: float) -> None:
        try:
            received = self._received.get(timeout=timeout_seconds)
        except Empty:
            raise TimeoutError(f"replica {self._endpoint} did not answer in time") from None
        if isinstance(received, LinkLostError):
            self._lost = received
        elif received.request_id in self._wanted:
            self._arrived[received.request_id] = received

    def _take_all(self) -> None:
        """Take what came before the end of the stream, and the end."""
        while not self._lost:
            self._take(1.0)

    def _open(self, response: expert_pb2.DispatchResponse) -> ExpertResult:
        try:
            outcome = decode_response(response)
        except WireError as error:
            raise ReplicaFaultError(f"it answered with a damaged tensor: {error}") from error
        if isinstance(outcome, CallFailure):
            raise outcome
        return outcome

    def _check(self) -> None:
        if self._lost is not None:
            raise LinkLostError(str(self._lost)) from self._lost


def _describe(error: grpc.RpcError) -> str:
    return f"{error.code().name}: {error.details()}" if isinstance(error, grpc.Call) else str(error)
