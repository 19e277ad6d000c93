from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expertmesh.kernels.awq import AwqTensors, pack, read
from expertmesh.kernels.weights import QuantizedWeight

# The column of each nibble, from the lowest bits up, as the format's own packer writes them.
ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def random_weight(num_out: int, num_groups: int, group_size: int, seed: int = 0, bits: int = 4) -> QuantizedWeight:
    generator = torch.Generator().manual_seed(seed)
    return QuantizedWeight(
        codes=torch.randint(2**bits, (num_out, num_groups * group_size), generator=generator, dtype=torch.uint8),
        scales=torch.rand(num_out, num_groups, generator=generator).half(),
        zeros=torch.randint(2**bits, (num_out, num_groups), generator=generator, dtype=torch.uint8),
        bits=bits,
        group_size=group_size,
    )


def pack_one_by_one(codes: torch.Tensor) -> torch.Tensor:
    """Pack [N, rows] to [rows, N/8] with Python integers."""
    rows = []
    for row in codes.T.tolist():
        words = [sum(row[c + column] << 4 * i for i, column in enumerate(ORDER)) for c in range(0, len(row), 8)]
        rows.append([word - 2**32 if word >= 2**31 else word for word in words])
    return torch.tensor(rows, dtype=torch.int32)


def test_one_word_is_laid_out_as_published():
    weight = QuantizedWeight(
        codes=torch.arange(8, dtype=torch.uint8).unsqueeze(1),
        scales=torch.ones(8, 1).half(),
        zeros=torch.arange(15, 7, -1, dtype=torch.uint8).unsqueeze(1),
        bits=4,
        group_size=1,
    )
    tensors = pack(weight)
    assert tensors.qweight.tolist() == [[0x75316420]]
    assert tensors.qzeros.tolist() == [[0x8ACE9BDF - 2**32]]


@pytest.mark.parametrize(("num_out", "num_groups", "group_size"), [(8, 1, 1), (16, 3, 32), (40, 2, 128), (64, 4, 64)])
def test_pack_equals_packing_one_by_one(num_out, num_groups, group_size):
    weight = random_weight(num_out, num_groups, group_size)
    tensors = pack(weight)
    assert tensors.qweight.equal(pack_one_by_one(weight.codes))
    assert tensors.qzeros.equal(pack_one_by_one(weight.zeros))
    assert tensors.scales.equal(weight.scales.T)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 40), st.integers(0, 2**31))
def test_read_undoes_pack(num_words, num_groups, group_size, seed):
    weight = random_weight(8 * num_words, num_groups, group_size, seed)
    again = read(pack(weight))
    assert again.codes.equal(weight.codes)
    assert again.scales.equal(weight.scales)
    assert again.zeros.equal(weight.zeros)
    assert (again.bits, again.group_size) == (4, group_size)


def test_pack_refuses_what_the_layout_cannot_hold():
    with pytest.raises(ValueError, match="these have 3 bits"):
        pack(random_weight(8, 1, 8, bits=3))
    with pytest.raises(ValueError, match="12 is no multiple"):
        pack(random_weight(12, 1, 8))


def words(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int32)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (AwqTensors(words(8, 2).long(), words(1, 2), torch.ones(1, 16)), r"qweight is int64 \[8, 2\]"),
        (AwqTensors(words(8, 2, 1), words(1, 2), torch.ones(1, 16)), r"qweight is int32 \[8, 2, 1\]"),
        (AwqTensors(words(0, 2), words(1, 2), torch.ones(1, 16)), r"qweight is int32 \[0, 2\]"),
        (AwqTensors(words(8, 0), words(1, 0), torch.ones(1, 0)), r"qweight is int32 \[8, 0\]"),
        (AwqTensors(words(8, 2), words(2), torch.ones(1, 16)), r"qzeros is int32 \[2\]"),
        (AwqTensors(words(8, 2), words(1, 2).long(), torch.ones(1, 16)), r"qzeros is int64 \[1, 2\]"),
        (AwqTensors(words(8, 2), words(1, 3), torch.ones(1, 16)), r"qzeros is int32 \[1, 3\]; int32 \[1, 2\] would"),
        (AwqTensors(words(8, 2), words(3, 2), torch.ones(3, 16)), "scales has 3 groups"),
        (AwqTensors(words(8, 2), words(0, 2), torch.ones(0, 16)), "scales has 0 groups"),
        (AwqTensors(words(8, 2), words(1, 2), torch.ones(1, 15)), r"scales is float32 \[1, 15\]"),
        (AwqTensors(words(8, 2), words(1, 2), torch.ones(1, 16).int()), r"scales is int32 \[1, 16\]"),
        (AwqTensors(words(8, 2), words(1, 2), torch.ones(1, 16), torch.ones(3)), r"bias is float32 \[3\]"),
    ],
)
def test_read_names_the_tensor_that_does_not_fit(tensors, message):
    with pytest.raises(ValueError, match=message):
        read(tensors)


def test_without_zero_points_every_one_is_in_the_middle():
    weight = replace(random_weight(16, 2, 8), zeros=torch.full((16, 2), 8, dtype=torch.uint8))
    assert read(replace(pack(weight), qzeros=None)).zeros.equal(weight.zeros)


@pytest.mark.parametrize("bias", [torch.zeros(16), torch.arange(1.0, 17).half()])
def test_a_bias_is_kept_unless_it_is_all_zero(bias):
    again = read(replace(pack(random_weight(16, 2, 8)), bias=bias))
    assert (again.bias is None) if not bias.any() else torch.equal(again.bias, bias)
