from dataclasses import replace

import pytest
import torch

from expertmesh.kernels.pack_quantized import PackQuantizedTensors, pack, read
from expertmesh.kernels.weights import QuantizedWeight


def random_weight(bits: int, num_out: int, num_groups: int, group_size: int) -> QuantizedWeight:
    generator = torch.Generator().manual_seed(bits)
    return QuantizedWeight(
        codes=torch.randint(2**bits, (num_out, num_groups * group_size), generator=generator, dtype=torch.uint8),
        scales=torch.rand(num_out, num_groups, generator=generator).half(),
        zeros=torch.randint(2**bits, (num_out, num_groups), generator=generator, dtype=torch.uint8),
        bits=bits,
        group_size=group_size,
    )


def test_words_are_laid_out_as_published():
    codes = torch.tensor([[-8, -7, -6, -5, -4, -3, -2, -1], [0, 1, 2, 3, 4, 5, 6, 7]] * 4)  # as their tool counts
    tensors = pack(
        QuantizedWeight((codes + 8).to(torch.uint8), torch.ones(8, 1), (codes[:2].reshape(-1, 1)[:8] + 8).byte(), 4, 8),
        is_symmetric=False,
    )
    assert tensors.weight_packed.tolist() == [[0x76543210], [0xFEDCBA98 - 2**32]] * 4
    assert tensors.weight_zero_point.tolist() == [[0x76543210]]
    assert tensors.weight_shape.tolist() == [8, 8]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("num_out", "num_groups", "group_size"), [(8, 1, 8), (16, 3, 32), (40, 2, 128)])
@pytest.mark.parametrize("is_ordered", [False, True])
@pytest.mark.parametrize("bias", [None, 1.0])
def test_read_undoes_pack(bits, num_out, num_groups, group_size, is_ordered, bias):
    weight = random_weight(bits, num_out, num_groups, group_size)
    # Stored in the order of the groups, and of the input within them.
    perm = torch.randperm(num_groups * group_size).view(num_groups, -1).sort().values.flatten() if is_ordered else None
    weight = replace(weight, perm=perm, bias=None if bias is None else torch.full((num_out,), bias))
    found = read(pack(weight, is_symmetric=False), bits)
    for part in ("codes", "scales", "zeros"):
        assert getattr(found, part).equal(getattr(weight, part))
    assert (found.bits, found.group_size, found.bias is None) == (bits, group_size, bias is None)
    in_order = perm is None or perm.equal(torch.arange(len(perm)))
    assert found.perm is None if in_order else found.perm.equal(perm)


@pytest.mark.parametrize(("bits", "middle"), [(4, 8), (8, 128)])
def test_without_zero_points_they_are_in_the_middle(bits, middle):
    found = read(pack(random_weight(bits, 8, 2, 8), is_symmetric=True), bits)
    assert found.zeros.eq(middle).all()


def test_other_widths_are_not_packed():
    with pytest.raises(ValueError, match="codes of 4 or 8 bits can be packed, these have 3"):
        pack(random_weight(3, 32, 1, 32), is_symmetric=True)


@pytest.mark.parametrize(
    ("part", "tensor", "message"),
    [
        ("weight_packed", torch.zeros(8, 2), "weight_packed is float32"),
        ("weight_packed", torch.zeros(0, 2).int(), r"weight_packed is int32 \[0, 2\]"),
        (
            "weight_shape",
            torch.tensor([8, 15]),
            r"weight_shape says \[8, 15\]; the codes of weight_packed are \[8, 16\]",
        ),
        ("weight_scale", torch.ones(2, 8), r"weight_scale is float32 \[2, 8\]; floating point \[8, groups\]"),
        ("weight_scale", torch.ones(8, 3), "weight_scale has 3 groups, which do not divide 16 input features"),
        ("weight_zero_point", torch.zeros(8, 2).int(), r"weight_zero_point is int32 \[8, 2\]; int32 \[1, 2\] would be"),
    ],
)
def test_tensors_that_do_not_fit_are_named(part, tensor, message):
    tensors: PackQuantizedTensors = pack(random_weight(4, 8, 2, 8), is_symmetric=False)
    with pytest.raises(ValueError, match=message):
        read(replace(tensors, **{part: tensor}), 4)
