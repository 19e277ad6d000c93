"""Calls and answers as frames on a socket: a header of fixed size, then raw bytes. Knows no sockets.

All numbers are little-endian. A header has these fields, those that a kind does not use being 0:

    magic "XMLK", version, kind, dtype of the hidden states (DataType of tensor.proto), failure code (1 byte each),
    call id (8 bytes), layer, rows U, width D, choices A, bytes of text, place (4 bytes each),
    timeout or wait in the queue, time in the kernels (8 bytes each, nanoseconds),
    checksum of the body and of what lies at the place, checksum of the header so far (4 bytes each, see checksum.py)

    kind     body
    HELLO    text: the token of an offer
    WELCOME  none
    CALL     topk_ids [U, A] int32, topk_weights [U, A] float32, hidden [U, D], text: the traceparent
    RESULT   partial [U, D] float32
    FAILURE  text: what was found and what would be right

Ids and weights come first, so that everything lies at a multiple of four bytes.

On a Unix socket a HELLO may bring the descriptor of memory to share (rpc/shared_memory.py), and the place of the
WELCOME is 1 when the server shares it. Then the hidden states of a CALL whose place is not 0 lie in that room of it
(room.py) instead of in the body, and so does the partial of a RESULT that repeats the place of its call. Ids and
weights are in the body all the same: once checked they must not change, as shared memory may.
"""

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch

from expertmesh.v1 import tensor_pb2
from expertmesh.wire.calls import ExpertCall, ExpertResult, decode_timeout, encode_timeout
from expertmesh.wire.checksum import Array, Buffer, checksum
from expertmesh.wire.failures import CallFailure, FailureCode, WireError, damage
from expertmesh.wire.tensors import bits_of

MAGIC = b"XMLK"
VERSION = 2
MAX_TEXT_BYTES = 16 * 1024

_HEADER = struct.Struct("<4sBBBBQIIIIIIQQI")
_CHECKSUM = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CHECKSUM.size
_NS_PER_SECOND = 1_000_000_000
_DTYPES: dict[int, torch.dtype] = {
    tensor_pb2.DATA_TYPE_FLOAT32: torch.float32,
    tensor_pb2.DATA_TYPE_FLOAT16: torch.float16,
    tensor_pb2.DATA_TYPE_BFLOAT16: torch.bfloat16,
}
_WIRE_DTYPES = {dtype: wire for wire, dtype in _DTYPES.items()}
_FLOAT32_BYTES = _INT32_BYTES = 4


class Kind(IntEnum):
    """What a frame is."""

    HELLO = 1
    WELCOME = 2
    CALL = 3
    RESULT = 4
    FAILURE = 5


class Header(NamedTuple):
    """The fields of a header that was checked; a dtype of None is none."""

    kind: Kind
    dtype: torch.dtype | None
    code: int
    call_id: int
    layer: int
    num_rows: int
    width: int
    num_choices: int
    num_text_bytes: int
    place: int
    first_ns: int
    second_ns: int
    checksum: int
    num_body_bytes: int


def decode_header(data: Buffer, max_body_bytes: int) -> Header:
    """Read the header of a frame whose body may have ``max_body_bytes``; WireError, with the numbers, for any other."""
    if len(data) != HEADER_BYTES:
        raise WireError(f"a header has {len(data)} bytes; {HEADER_BYTES} would be right")
    (magic, version, kind, dtype, code, call_id, layer, rows, width, chosen, text, place, first, second, body_sum) = (
        _HEADER.unpack_from(data)
    )
    if magic != MAGIC or version != VERSION:
        raise WireError(
            f"a frame begins with {magic!r}, version {version}; {MAGIC!r}, version {VERSION} would be right"
        )
    found, right = checksum([data[: _HEADER.size]]), _CHECKSUM.unpack_from(data, _HEADER.size)[0]
    if found != right:
        raise WireError(f"a header was damaged on its way: its checksum is {found:08x}, {right:08x} would be right")
    if text > MAX_TEXT_BYTES:
        raise WireError(f"a frame has {text} bytes of text; at most {MAX_TEXT_BYTES} would be right")
    try:
        known = Kind(kind)
    except ValueError:
        raise WireError(f"frame kind {kind} is unknown; {list(map(int, Kind))} would be right") from None
    num_body_bytes = text
    if known is Kind.CALL:
        if dtype not in _DTYPES:
            raise WireError(f"hidden dtype {dtype} is unknown; one of {sorted(_DTYPES)} would be right")
        num_body_bytes += rows * chosen * (_INT32_BYTES + _FLOAT32_BYTES)
        num_body_bytes += 0 if place else rows * width * _DTYPES[dtype].itemsize
    elif known is Kind.RESULT and not place:
        num_body_bytes = rows * width * _FLOAT32_BYTES
    if num_body_bytes > max_body_bytes:
        raise WireError(
            f"a frame of {rows} rows of {width} values with {chosen} choices has {num_body_bytes} bytes; at most "
            f"{max_body_bytes} would be right"
        )
    dtype_or_none = _DTYPES.get(dtype)
    sizes = (layer, rows, width, chosen, text, place)
    return Header(known, dtype_or_none, code, call_id, *sizes, first, second, body_sum, num_body_bytes)


def find_damage(header: Header, *parts: Buffer | torch.Tensor) -> CallFailure | None:
    """Tell, as a failure, when a body, or what lies at its place, is not what was sent; both together are ``parts``."""
    found = checksum([bits_of(part) if isinstance(part, torch.Tensor) else part for part in parts])
    return None if found == header.checksum else damage(f"call {header.call_id}", found, header.checksum)


def encode_hello(token: bytes) -> list[Buffer | Array]:
    """Make the frame that a caller sends first."""
    return [_pack(Kind.HELLO, [token], num_text_bytes=len(token)), token]


def encode_welcome(shares_memory: bool = False) -> list[Buffer | Array]:
    """Make the frame that takes a caller's token, and perhaps its memory."""
    return [_pack(Kind.WELCOME, [], place=int(shares_memory))]


def encode_call(call_id: int, call: ExpertCall, place: int = 0) -> list[Buffer | Array]:
    """Make the frame of a call, which shares its memory where that is possible.

    With a ``place`` it leaves out the hidden states, which lie there. WireError when a dtype cannot be sent or the
    choices are not [U, A].
    """
    hidden, ids, weights = call.hidden, call.topk_ids, call.topk_weights
    dtype = _WIRE_DTYPES.get(hidden.dtype)
    if dtype is None or hidden.dim() != 2:
        raise WireError(f"hidden is {hidden.dtype} {list(hidden.shape)}; [U, D] in one of {_names()} can be sent")
    if ids.ndim != 2 or ids.shape[0] != hidden.shape[0] or ids.shape != weights.shape:
        raise WireError(f"choices are {list(ids.shape)} and {list(weights.shape)}; [{hidden.shape[0]}, A] can be sent")
    if ids.dtype != np.int32 or weights.dtype != np.float32:
        raise WireError(f"choices are {ids.dtype} and {weights.dtype}; int32 and float32 can be sent")
    text, bits = call.traceparent.encode(), bits_of(hidden)
    body: list[Buffer | Array] = [np.ascontiguousarray(ids), np.ascontiguousarray(weights)]
    body += ([] if place else [bits]) + ([text] if text else [])
    header = _pack(
        Kind.CALL,
        [*body, bits] if place else body,
        call_id,
        dtype=dtype,
        layer=call.layer,
        shape=(hidden.shape[0], hidden.shape[1], ids.shape[1]),
        num_text_bytes=len(text),
        place=place,
        first_ns=encode_timeout(call.timeout_seconds),
    )
    return [header, *body]


def decode_call(header: Header, body: memoryview, hidden: torch.Tensor | None = None) -> ExpertCall:
    """Read a call from the body of its frame, whose memory it shares; WireError when its text is damaged.

    ``hidden`` [U, D] are the hidden states of a call that has a place.
    """
    num_rows, num_choices = header.num_rows, header.num_choices
    num_chosen = num_rows * num_choices
    ids = np.frombuffer(body, np.int32, num_chosen)
    weights = np.frombuffer(body, np.float32, num_chosen, num_chosen * _INT32_BYTES)
    return ExpertCall(
        header.layer,
        _decode_hidden(header, body, num_chosen * (_INT32_BYTES + _FLOAT32_BYTES)) if hidden is None else hidden,
        ids.reshape(num_rows, num_choices),
        weights.reshape(num_rows, num_choices),
        decode_timeout(header.first_ns),
        _decode_text(body[header.num_body_bytes - header.num_text_bytes : header.num_body_bytes]),
    )


def encode_outcome(call_id: int, outcome: ExpertResult | CallFailure, place: int = 0) -> list[Buffer | Array]:
    """Make the frame that answers a call; with a ``place`` it leaves out the partial rows, which lie there."""
    if isinstance(outcome, CallFailure):
        text = outcome.message.encode(errors="replace")
        return [_pack(Kind.FAILURE, [text], call_id, code=outcome.code, num_text_bytes=len(text)), text]
    num_rows, width = outcome.partial.shape
    bits = bits_of(outcome.partial)
    header = _pack(
        Kind.RESULT,
        [bits],
        call_id,
        shape=(num_rows, width, 0),
        place=place,
        first_ns=int(outcome.queue_seconds * _NS_PER_SECOND),
        second_ns=int(outcome.compute_seconds * _NS_PER_SECOND),
    )
    return [header] if place else [header, bits]


def empty_partial(shape: tuple[int, int]) -> tuple[torch.Tensor, memoryview]:
    """Make a tensor [U, D] for the body of a RESULT frame, and the memory that the body goes into."""
    partial = torch.empty(shape, dtype=torch.float32)
    return partial, bits_of(partial.view(-1)).data.cast("B") if partial.numel() else memoryview(b"")


def decode_result(header: Header, partial: torch.Tensor) -> ExpertResult:
    """Read the result of a RESULT frame whose body is in ``partial``."""
    return ExpertResult(partial, header.first_ns / _NS_PER_SECOND, header.second_ns / _NS_PER_SECOND)


def decode_failure(header: Header, body: memoryview) -> CallFailure:
    """Read a failure; a code of a newer server becomes UNSPECIFIED and stays named in the message."""
    text = bytes(body).decode(errors="replace")
    try:
        return CallFailure(FailureCode(header.code), text)
    except ValueError:
        return CallFailure(FailureCode.UNSPECIFIED, f"unknown failure code {header.code}: {text}")


def _pack(
    kind: Kind,
    summed: Sequence[Buffer | Array],
    call_id: int = 0,
    dtype: int = 0,
    code: int = 0,
    layer: int = 0,
    shape: Sequence[int] = (0, 0, 0),
    num_text_bytes: int = 0,
    place: int = 0,
    first_ns: int = 0,
    second_ns: int = 0,
) -> bytes:
    numbers = (kind, dtype, code, call_id, layer, *shape, num_text_bytes, place, first_ns, second_ns)
    header = _HEADER.pack(MAGIC, VERSION, *numbers, checksum(summed))
    return header + _CHECKSUM.pack(checksum([header]))


def _decode_hidden(header: Header, body: memoryview, offset: int) -> torch.Tensor:
    shape = (header.num_rows, header.width)
    if not header.num_rows * header.width:
        return torch.empty(shape, dtype=header.dtype)
    assert header.dtype is not None, "decode_header lets no call without pass"
    return torch.frombuffer(body, dtype=header.dtype, count=shape[0] * shape[1], offset=offset).view(shape)


def _decode_text(text: memoryview) -> str:
    try:
        return str(text, "utf-8") if text else ""
    except UnicodeDecodeError as error:
        raise WireError(f"the text of a frame is not UTF-8: {error}") from error


def _names() -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in _WIRE_DTYPES)
