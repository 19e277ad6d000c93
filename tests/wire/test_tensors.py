import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expertmesh.v1 import tensor_pb2
from expertmesh.wire.failures import WireError
from expertmesh.wire.tensors import MAX_DIMS, decode, decode_floats, decode_ids, write, write_array

DTYPES = {
    tensor_pb2.DATA_TYPE_FLOAT32: torch.float32,
    tensor_pb2.DATA_TYPE_FLOAT16: torch.float16,
    tensor_pb2.DATA_TYPE_BFLOAT16: torch.bfloat16,
    tensor_pb2.DATA_TYPE_INT32: torch.int32,
}
SHAPES = st.lists(st.integers(0, 5), max_size=MAX_DIMS).map(tuple)


def encode(tensor):
    message = tensor_pb2.Tensor()
    write(tensor, message)
    return message


def test_every_data_type_of_the_proto_has_a_codec():
    assert {tensor_pb2.DATA_TYPE_UNSPECIFIED, *DTYPES} == set(tensor_pb2.DataType.values())


@pytest.mark.parametrize("wire_dtype", DTYPES)
def test_bytes_are_little_endian_rows(wire_dtype):
    dtype = DTYPES[wire_dtype]
    message = encode(torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=dtype).T)
    assert (message.dtype, list(message.shape)) == (wire_dtype, [3, 2])
    one = {
        torch.float32: "0000803f",
        torch.float16: "003c",
        torch.bfloat16: "803f",
        torch.int32: "01000000",
    }
    assert message.data.startswith(bytes.fromhex(one[dtype]))
    assert torch.equal(decode(message), torch.tensor([[1, 4], [2, 5], [3, 6]], dtype=dtype))


@settings(max_examples=60, deadline=None)
@given(shape=SHAPES, dtype=st.sampled_from(list(DTYPES.values())), seed=st.integers(0, 2**31))
def test_round_trip_keeps_every_bit(shape, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    num_bytes = math.prod(shape) * dtype.itemsize
    raw = torch.randint(0, 256, (num_bytes,), dtype=torch.uint8, generator=generator)  # NaN patterns included
    tensor = raw.view(dtype).view(shape)
    received = decode(tensor_pb2.Tensor.FromString(encode(tensor).SerializeToString()))
    assert (received.dtype, received.shape) == (dtype, tensor.shape)
    assert torch.equal(received.flatten().view(torch.uint8), raw)


def test_a_decoded_tensor_outlives_its_message():
    message = encode(torch.arange(1000, dtype=torch.int32))
    tensor = decode(message)
    del message
    assert torch.equal(tensor, torch.arange(1000, dtype=torch.int32))


@pytest.mark.parametrize(
    ("shape", "data", "words"),
    [
        ([2, 3], bytes(20), "20 bytes instead of 24"),
        ([2, 3], b"", "0 bytes instead of 24"),
        ([2**32 - 1, 2**32 - 1], bytes(4), "bytes instead of 7378"),
        ([0, 2**32 - 1, 2**32 - 1, 2**32 - 1], b"", "beyond any size"),
        ([1] * 5, bytes(4), "5 dimensions"),
    ],
)
def test_shape_and_bytes_must_agree(shape, data, words):
    with pytest.raises(WireError, match=words):
        decode(tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=shape, data=data))


@pytest.mark.parametrize("dtype", [0, 99])
def test_an_unknown_dtype_is_named(dtype):
    with pytest.raises(WireError, match=f"tensor dtype {dtype} is unknown; one of float32, float16, bfloat16, int32"):
        decode(tensor_pb2.Tensor(dtype=dtype, shape=[1], data=bytes(4)))


@pytest.mark.parametrize(("dtype", "decode_array"), [(np.int32, decode_ids), (np.float32, decode_floats)])
def test_an_array_travels_like_a_tensor(dtype, decode_array):
    array = np.arange(6, dtype=dtype).reshape(2, 3).T
    message = tensor_pb2.Tensor()
    write_array(array, message)
    assert message == encode(torch.from_numpy(array))
    received = decode_array(message, "numbers")
    assert received.dtype == dtype
    assert np.array_equal(received, array)


def test_an_array_whose_message_holds_something_else_is_refused():
    with pytest.raises(WireError, match="numbers are int32; float32 would be right"):
        decode_floats(encode(torch.zeros(2, dtype=torch.int32)), "numbers")
    with pytest.raises(WireError, match="tensor dtype 99 is unknown"):
        decode_ids(tensor_pb2.Tensor(dtype=99), "numbers")
    with pytest.raises(WireError, match=r"an array of int64 cannot be sent; one of float32, int32 can"):
        write_array(np.zeros(1, np.int64), tensor_pb2.Tensor())


def test_a_dtype_without_a_place_on_the_wire_is_named():
    with pytest.raises(WireError, match=r"torch\.int64 cannot be sent"):
        encode(torch.zeros(1, dtype=torch.int64))
