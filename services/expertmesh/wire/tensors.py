"""Tensors and arrays to bytes and back. Knows dtypes and shapes, not what they mean."""

import math
from collections.abc import Iterable
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.dlpack import from_dlpack

from expertmesh.v1 import tensor_pb2
from expertmesh.wire.checksum import Array
from expertmesh.wire.failures import WireError

MAX_DIMS = 4

# For each dtype on the wire: the dtype of torch, and a dtype of numpy that holds the same bits (numpy has no bfloat16).
_CODECS: dict[tensor_pb2.DataType, tuple[torch.dtype, np.dtype[np.generic]]] = {
    tensor_pb2.DATA_TYPE_FLOAT32: (torch.float32, np.dtype("<f4")),
    tensor_pb2.DATA_TYPE_FLOAT16: (torch.float16, np.dtype("<f2")),
    tensor_pb2.DATA_TYPE_BFLOAT16: (torch.bfloat16, np.dtype("<i2")),
    tensor_pb2.DATA_TYPE_INT32: (torch.int32, np.dtype("<i4")),
}
_WIRE_DTYPES = {torch_dtype: wire for wire, (torch_dtype, _) in _CODECS.items()}
# Arrays travel as what they are.
_ARRAY_TYPES = (tensor_pb2.DATA_TYPE_FLOAT32, tensor_pb2.DATA_TYPE_INT32)
_WIRE_DTYPES_OF_ARRAYS = {_CODECS[wire][1]: wire for wire in _ARRAY_TYPES}


def write(tensor: torch.Tensor, message: tensor_pb2.Tensor) -> None:
    """Fill a message with a tensor of any shape and device; WireError for a dtype that has no place on the wire.

    Filling the message where it lies saves a copy of the data for each message around it.
    """
    wire_dtype = _WIRE_DTYPES.get(tensor.dtype)
    if wire_dtype is None:
        raise WireError(f"dtype {tensor.dtype} cannot be sent; one of {_names(_WIRE_DTYPES)} can")
    _fill(message, wire_dtype, bits_of(tensor.detach()))


def bits_of(tensor: torch.Tensor) -> Array:
    """Return the bytes of a tensor; those of bfloat16, which numpy lacks, as int16."""
    # Each call of torch costs microseconds between two messages, even where there is nothing to do.
    if not (tensor.is_cpu and tensor.is_contiguous()):
        tensor = tensor.cpu().contiguous()
    bits: Array = (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return bits


def write_array(array: Array, message: tensor_pb2.Tensor) -> None:
    """Fill an empty message with an array of float32 or int32; WireError for another dtype."""
    wire_dtype = _WIRE_DTYPES_OF_ARRAYS.get(array.dtype)
    if wire_dtype is None:
        raise WireError(f"an array of {array.dtype} cannot be sent; one of {_names(_WIRE_DTYPES_OF_ARRAYS)} can")
    _fill(message, wire_dtype, array)


def decode(message: tensor_pb2.Tensor) -> torch.Tensor:
    """Turn a message into a tensor on the CPU that shares the received bytes: read it, do not write to it.

    WireError when the dtype is unknown or when shape and byte count do not agree.
    """
    dtype, bits = _read(message)
    if not bits.size:
        return torch.empty(bits.shape, dtype=dtype)
    # DLPack shares read-only memory without the copy, or the warning, of torch.from_numpy and torch.frombuffer.
    tensor: torch.Tensor = from_dlpack(bits)
    return tensor.view(torch.bfloat16) if dtype == torch.bfloat16 else tensor


def decode_floats(message: tensor_pb2.Tensor, name: str) -> npt.NDArray[np.float32]:
    """Turn a message into a read-only array of float32 that shares the received bytes; ``name`` says what it is.

    WireError as in ``decode``, and when the message holds another dtype.
    """
    return cast(npt.NDArray[np.float32], _read_as(torch.float32, message, name))


def decode_ids(message: tensor_pb2.Tensor, name: str) -> npt.NDArray[np.int32]:
    """Do the same as ``decode_floats`` for int32."""
    return cast(npt.NDArray[np.int32], _read_as(torch.int32, message, name))


def _fill(message: tensor_pb2.Tensor, wire_dtype: tensor_pb2.DataType, bits: Array) -> None:
    message.dtype = wire_dtype
    message.shape[:] = bits.shape
    message.data = bits.tobytes()  # row-major whatever the strides


def _read(message: tensor_pb2.Tensor) -> tuple[torch.dtype, Array]:
    """Return the dtype of a tensor, and its values in the dtype of numpy that holds the same bits."""
    codec = _CODECS.get(message.dtype)
    if codec is None:
        raise WireError(f"tensor dtype {message.dtype} is unknown; one of {_names(_WIRE_DTYPES)} would be right")
    torch_dtype, numpy_dtype = codec
    shape, data = tuple(message.shape), message.data
    _check_size(shape, len(data), torch_dtype)
    return torch_dtype, np.frombuffer(data, numpy_dtype).reshape(shape)


def _read_as(dtype: torch.dtype, message: tensor_pb2.Tensor, name: str) -> Array:
    found, array = _read(message)
    if found != dtype:
        raise WireError(f"{name} are {_names([found])}; {_names([dtype])} would be right")
    return array


def _check_size(shape: tuple[int, ...], num_bytes: int, dtype: torch.dtype) -> None:
    if len(shape) > MAX_DIMS:
        raise WireError(f"tensor has {len(shape)} dimensions; at most {MAX_DIMS} would be right")
    expected = math.prod(shape) * dtype.itemsize
    if num_bytes != expected:
        raise WireError(f"{dtype} tensor of shape {list(shape)} comes with {num_bytes} bytes instead of {expected}")
    if not expected and math.prod(max(extent, 1) for extent in shape) >= 2**48:
        raise WireError(f"tensor shape {list(shape)} is empty and yet beyond any size")


def _names(dtypes: Iterable[torch.dtype | np.dtype[np.generic]]) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
