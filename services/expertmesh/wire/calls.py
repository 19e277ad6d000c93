"""Calls to experts and their results, as values and as messages. Knows field names, not what hosts an expert.

Alphabet: U rows (tokens) in a call, A experts chosen per row, D hidden width.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from expertmesh.v1 import expert_pb2, tensor_pb2
from expertmesh.wire.checksum import checksum
from expertmesh.wire.failures import (
    CallFailure,
    FailureCode,
    WireError,
    damage,
    decode_failure,
    encode_failure,
    few,
)
from expertmesh.wire.tensors import bits_of, decode, decode_floats, decode_ids, write, write_array

_NS_PER_SECOND = 1_000_000_000
# Of version 00 it has 55; later ones may be longer, but no caller has reason to send pages.
MAX_TRACEPARENT_CHARS = 256


@dataclass(frozen=True)
class ExpertCall:
    """Rows of one layer and the experts wanted for them.

    ``hidden`` [U, D] float32, float16 or bfloat16; ``topk_ids`` [U, A], -1 for a choice that another server answers;
    ``topk_weights`` [U, A]; ``timeout_seconds`` is what the caller still waits, None without limit. ``traceparent``
    names the caller's span, empty when the call is not traced.

    What was chosen is index arithmetic, in numpy: on a row or two its calls cost a fraction of torch's.
    """

    layer: int
    hidden: torch.Tensor
    topk_ids: npt.NDArray[np.int32]
    topk_weights: npt.NDArray[np.float32]
    timeout_seconds: float | None = None
    traceparent: str = ""

    @property
    def num_bytes(self) -> int:
        """Bytes of its tensors on the wire."""
        return self.hidden.nbytes + self.topk_ids.nbytes + self.topk_weights.nbytes


@dataclass(frozen=True)
class ExpertResult:
    """``partial`` [U, D] float32: for each row the sum of weight x expert(row) over the choices of one server."""

    partial: torch.Tensor
    queue_seconds: float
    compute_seconds: float


@dataclass(frozen=True)
class NonFiniteRows:
    """Rows that hold NaN or Inf: ``is_bad`` [U], ``rows`` their numbers, ``fault`` that of the caller, if it is one."""

    is_bad: npt.NDArray[np.bool_]
    rows: list[int]
    fault: CallFailure | None


def find_nonfinite(call: ExpertCall, partial: torch.Tensor) -> NonFiniteRows:
    """Look for rows of an answer [U, D] that are not numbers: the caller's fault where those that it sent were none."""
    is_bad = ~partial.isfinite().all(dim=1).numpy()  # [U]
    rows = np.flatnonzero(is_bad).tolist()
    has_finite_weights = (np.isfinite(call.topk_weights) | (call.topk_ids < 0)).all(axis=1)  # [U]
    is_given = call.hidden.isfinite().all(dim=1).cpu().numpy() & has_finite_weights  # [U]
    if is_given[is_bad].all():
        return NonFiniteRows(is_bad, rows, None)
    what = f"hidden or topk_weights of rows {few(rows)} are not finite"
    return NonFiniteRows(is_bad, rows, CallFailure(FailureCode.INVALID_REQUEST, what))


def split_call(call: ExpertCall, max_rows: int) -> list[ExpertCall]:
    """Cut a call into as few of at most ``max_rows`` rows as there can be, of one size but for the last."""
    num_rows = call.hidden.shape[0]
    if num_rows <= max_rows:
        return [call]
    step = -(-num_rows // -(-num_rows // max_rows))
    return [
        replace(call, hidden=call.hidden[rows], topk_ids=call.topk_ids[rows], topk_weights=call.topk_weights[rows])
        for rows in (slice(start, start + step) for start in range(0, num_rows, step))
    ]


def write_call(call: ExpertCall, message: expert_pb2.ExpertCall) -> None:
    """Fill a message with a call; WireError when a dtype cannot be sent."""
    message.layer = call.layer
    message.timeout_ns = encode_timeout(call.timeout_seconds)
    message.traceparent = call.traceparent
    write(call.hidden, message.hidden)
    write_array(call.topk_ids, message.topk_ids)
    write_array(call.topk_weights, message.topk_weights)


def decode_call(message: expert_pb2.ExpertCall) -> ExpertCall:
    """Turn a message into a call; WireError when a tensor is damaged, or choices are not int32 and float32."""
    if (num_chars := len(message.traceparent)) > MAX_TRACEPARENT_CHARS:
        raise WireError(f"traceparent has {num_chars} characters; at most {MAX_TRACEPARENT_CHARS} would be right")
    return ExpertCall(
        layer=message.layer,
        hidden=decode(message.hidden),
        topk_ids=decode_ids(message.topk_ids, "topk_ids"),
        topk_weights=decode_floats(message.topk_weights, "topk_weights"),
        timeout_seconds=decode_timeout(message.timeout_ns),
        traceparent=message.traceparent,
    )


def write_result(result: ExpertResult, message: expert_pb2.ExpertResult) -> None:
    """Fill a message with a result."""
    message.queue_ns = int(result.queue_seconds * _NS_PER_SECOND)
    message.compute_ns = int(result.compute_seconds * _NS_PER_SECOND)
    write(result.partial, message.partial)


def decode_result(message: expert_pb2.ExpertResult) -> ExpertResult:
    """Turn a message into a result; WireError when its tensor is damaged."""
    return ExpertResult(
        partial=decode(message.partial),
        queue_seconds=message.queue_ns / _NS_PER_SECOND,
        compute_seconds=message.compute_ns / _NS_PER_SECOND,
    )


def encode_request(request_id: int, call: ExpertCall) -> expert_pb2.DispatchRequest:
    """Put a call on a Dispatch stream."""
    message = expert_pb2.DispatchRequest(request_id=request_id)
    write_call(call, message.call)
    message.checksum = _sum_request(message, call)
    return message


def decode_request(message: expert_pb2.DispatchRequest) -> ExpertCall:
    """Read a call of a Dispatch stream; WireError as ``decode_call``, CallFailure DAMAGED for another checksum."""
    call = decode_call(message.call)
    if message.checksum and message.checksum != (found := _sum_request(message, call)):
        raise damage(f"request {message.request_id}", found, message.checksum)
    return call


def encode_response(request_id: int, outcome: ExpertResult | CallFailure) -> expert_pb2.DispatchResponse:
    """Answer a call of a Dispatch stream."""
    if isinstance(outcome, CallFailure):
        return expert_pb2.DispatchResponse(request_id=request_id, failure=encode_failure(outcome))
    message = expert_pb2.DispatchResponse(request_id=request_id)
    write_result(outcome, message.result)
    message.checksum = _sum_response(message, outcome)
    return message


def decode_response(message: expert_pb2.DispatchResponse) -> ExpertResult | CallFailure:
    """Read what a Dispatch stream answered; the failure is returned, not raised. WireError as ``decode_result``."""
    if message.HasField("result"):
        result = decode_result(message.result)
        if message.checksum and message.checksum != (found := _sum_response(message, result)):
            return damage(f"the answer to request {message.request_id}", found, message.checksum)
        return result
    if message.HasField("failure"):
        return decode_failure(message.failure)
    return CallFailure(FailureCode.UNSPECIFIED, f"the answer to request {message.request_id} is empty")


def encode_timeout(timeout_seconds: float | None) -> int:
    """Turn the time that a caller still waits into nanoseconds; 0 for None and inf, which are without limit."""
    if timeout_seconds is None or math.isinf(timeout_seconds):
        return 0
    # 0 means no limit, so a time that is over already travels as the shortest one there is.
    return max(1, int(timeout_seconds * _NS_PER_SECOND))


def decode_timeout(timeout_ns: int) -> float | None:
    """Turn nanoseconds into the time that a caller still waits; None for 0."""
    return timeout_ns / _NS_PER_SECOND if timeout_ns else None


def _sum_request(message: expert_pb2.DispatchRequest, call: ExpertCall) -> int:
    """Sum up a call, whose values are at hand: to ask the message for data once more would copy it."""
    sent = message.call
    numbers = (message.request_id, sent.layer, sent.timeout_ns, sent.traceparent)
    tensors = (sent.hidden, sent.topk_ids, sent.topk_weights)
    choices = map(np.ascontiguousarray, (call.topk_ids, call.topk_weights))
    return checksum([_line(numbers, tensors), bits_of(call.hidden), *choices])


def _sum_response(message: expert_pb2.DispatchResponse, result: ExpertResult) -> int:
    sent = message.result
    numbers = (message.request_id, sent.queue_ns, sent.compute_ns)
    return checksum([_line(numbers, [sent.partial]), bits_of(result.partial)])


def _line(values: Iterable[int | str], tensors: Iterable[tensor_pb2.Tensor]) -> bytes:
    words = [*values, *(number for tensor in tensors for number in (tensor.dtype, *tensor.shape))]
    return "".join(f"{word} " for word in words).encode()
