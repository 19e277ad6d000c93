"""Tensors to bytes and back. Knows dtypes and shapes, not what a tensor means."""

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from expertmesh.errors import ExpertmeshError
from expertmesh.v1 import tensor_pb2

MAX_DIMS = 4

# For each dtype on the wire: the dtype of torch, and a dtype of numpy that holds the same bits (numpy has no bfloat16).
_CODECS: dict[tensor_pb2.DataType, tuple[torch.dtype, np.dtype[np.generic]]] = {
    tensor_pb2.DATA_TYPE_FLOAT32: (torch.float32, np.dtype("<f4")),
    tensor_pb2.DATA_TYPE_FLOAT16: (torch.float16, np.dtype("<f2")),
    tensor_pb2.DATA_TYPE_BFLOAT16: (torch.bfloat16, np.dtype("<i2")),
    tensor_pb2.DATA_TYPE_INT32: (torch.int32, np.dtype("<i4")),
}
_WIRE_DTYPES = {torch_dtype: wire for wire, (torch_dtype, _) in _CODECS.items()}


class WireError(ExpertmeshError, ValueError):
    """A message that cannot be encoded or decoded; it names dtype, shape or byte count."""


def write(tensor: torch.Tensor, message: tensor_pb2.Tensor) -> None:
    """Fill a message with a tensor of any shape and device; WireError for a dtype that has no place on the wire.

    Filling the message where it lies saves a copy of the data for each message around it.
    """
    wire_dtype = _WIRE_DTYPES.get(tensor.dtype)
    if wire_dtype is None:
        raise WireError(f"dtype {tensor.dtype} cannot be sent; one of {_names(_WIRE_DTYPES)} can")
    bits = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
    message.dtype = wire_dtype
    message.shape[:] = tensor.shape
    message.data = bits.detach().cpu().numpy().tobytes()  # row-major whatever the strides


def decode(message: tensor_pb2.Tensor) -> torch.Tensor:
    """Turn a message into a tensor on the CPU that shares the received bytes: read it, do not write to it.

    WireError when the dtype is unknown or when shape and byte count do not agree.
    """
    codec = _CODECS.get(message.dtype)
    if codec is None:
        raise WireError(f"tensor dtype {message.dtype} is unknown; one of {_names(_WIRE_DTYPES)} would be right")
    torch_dtype, numpy_dtype = codec
    shape, data = tuple(message.shape), message.data
    _check_size(shape, len(data), torch_dtype)
    if not data:
        return torch.empty(shape, dtype=torch_dtype)
    # DLPack shares read-only memory without the copy, or the warning, of torch.from_numpy and torch.frombuffer.
    tensor: torch.Tensor = from_dlpack(np.frombuffer(data, numpy_dtype).reshape(shape))
    return tensor.view(torch.bfloat16) if torch_dtype == torch.bfloat16 else tensor


def _check_size(shape: tuple[int, ...], num_bytes: int, dtype: torch.dtype) -> None:
    if len(shape) > MAX_DIMS:
        raise WireError(f"tensor has {len(shape)} dimensions; at most {MAX_DIMS} would be right")
    expected = math.prod(shape) * dtype.itemsize
    if num_bytes != expected:
        raise WireError(f"{dtype} tensor of shape {list(shape)} comes with {num_bytes} bytes instead of {expected}")
    if not expected and math.prod(max(extent, 1) for extent in shape) >= 2**48:
        raise WireError(f"tensor shape {list(shape)} is empty and yet beyond any size")


def _names(dtypes: Iterable[torch.dtype]) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
