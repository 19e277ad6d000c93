"""A link to experts in this very thread: calls are answered when they are received, or as the test says."""

from collections.abc import Callable, Sequence

import torch

from expertmesh.kernels.backend import GroupedFFN
from expertmesh.kernels.moe import run_chosen
from expertmesh.mesh.link import LinkLostError
from expertmesh.wire.calls import ExpertCall, ExpertResult

Answer = Callable[[ExpertCall], ExpertResult]


class InProcessLink:
    """Remembers what it was sent; ``answer`` may raise whatever a server or a connection can fail with."""

    transport = "nothing"

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.sent: list[ExpertCall] = []
        self.received: list[int] = []
        self.forgotten: list[int] = []
        self.is_closed = False
        self._calls: dict[int, ExpertCall] = {}

    def take_room(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor | None:
        return None

    def send(self, call_id: int, call: ExpertCall) -> int:
        self._check()
        self.sent.append(call)
        self._calls[call_id] = call
        return call.num_bytes

    def receive(self, call_id: int, timeout_seconds: float) -> ExpertResult:
        self._check()
        result = self.answer(self._calls[call_id])
        del self._calls[call_id]
        self.received.append(call_id)
        return result

    def forget(self, call_id: int) -> None:
        self._calls.pop(call_id, None)
        self.forgotten.append(call_id)

    def close(self) -> None:
        self.is_closed = True

    def _check(self) -> None:
        if self.is_closed:
            raise LinkLostError("closed")


def answer_with(layer: GroupedFFN, num_experts: int) -> Answer:
    """Make what runs the wanted experts of a layer, as a server that hosts all of them does."""

    @torch.inference_mode()
    def answer(call: ExpertCall) -> ExpertResult:
        partial = run_chosen(layer, num_experts, call.hidden, call.topk_ids, call.topk_weights)
        return ExpertResult(partial, queue_seconds=0.0, compute_seconds=0.0)

    return answer


def fail_with(error: Exception) -> Answer:
    """Make what answers nothing."""

    def answer(call: ExpertCall) -> ExpertResult:
        raise error

    return answer
