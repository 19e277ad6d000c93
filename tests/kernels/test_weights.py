from dataclasses import replace

import pytest
import torch

from expertmesh.kernels.bitstream import pack_stream
from expertmesh.kernels.quantize import dequantize, round_to_nearest
from expertmesh.kernels.weights import (
    DenseWeight,
    ExpertWeights,
    QuantizedWeight,
    StoredWeight,
    fold_down_order,
    stack_outputs,
)


def test_matrices_of_one_storage_are_joined_along_their_outputs():
    one, two = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    dense = stack_outputs([DenseWeight(one), DenseWeight(two)])
    assert isinstance(dense, DenseWeight)
    assert dense.data.equal(torch.cat((one, two)))
    parts = [round_to_nearest(one, 4, 4), round_to_nearest(two, 4, 4)]
    joined = stack_outputs(parts)
    assert isinstance(joined, QuantizedWeight)
    assert joined.shape == (12, 8)
    assert dequantize(joined).equal(torch.cat([dequantize(part) for part in parts]))


def test_matrices_of_different_storage_are_not():
    matrix = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    quantized = round_to_nearest(matrix, 4, 4)
    assert stack_outputs([DenseWeight(matrix), DenseWeight(matrix.half())]) is None
    assert stack_outputs([DenseWeight(matrix), quantized]) is None
    assert stack_outputs([quantized, round_to_nearest(matrix, 4, 8)]) is None
    assert stack_outputs([quantized, round_to_nearest(matrix, 3, 4)]) is None


def test_what_is_added_to_matrices_is_joined_too():
    one, two = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    perm = torch.tensor([3, 1, 0, 2, 7, 6, 4, 5])
    parts = [replace(round_to_nearest(matrix, 4, 4), perm=perm) for matrix in (one, two)]
    joined = stack_outputs([replace(parts[0], bias=torch.ones(6)), parts[1]])
    assert isinstance(joined, QuantizedWeight)
    assert joined.bias is not None
    assert joined.bias.tolist() == [1.0] * 6 + [0.0] * 6
    assert dequantize(joined).equal(torch.cat([dequantize(part) for part in parts]))
    assert stack_outputs([parts[0], replace(parts[1], perm=perm.flip(0))]) is None
    assert stack_outputs([parts[0], replace(parts[1], perm=None)]) is None


def test_the_order_of_the_down_projection_moves_into_gate_and_up():
    generator = torch.Generator().manual_seed(0)
    perm = torch.randperm(12, generator=generator)
    gate, up = torch.randn(2, 12, 8, generator=generator)
    down = replace(round_to_nearest(torch.randn(8, 12, generator=generator), 4, 4), perm=perm)
    up_quantized = replace(round_to_nearest(up, 4, 4), bias=torch.arange(12.0))
    folded = fold_down_order(ExpertWeights(DenseWeight(gate, torch.arange(12.0)), up_quantized, down))
    assert isinstance(folded.w_gate, DenseWeight)
    assert isinstance(folded.w_up, QuantizedWeight)
    assert isinstance(folded.w_down, QuantizedWeight)
    assert folded.w_gate.data.equal(gate[perm])
    assert dequantize(folded.w_up).equal(dequantize(up_quantized)[perm])
    assert folded.w_gate.bias is not None
    assert folded.w_up.bias is not None
    assert folded.w_gate.bias.equal(perm.float())
    assert folded.w_up.bias.equal(perm.float())
    assert dequantize(folded.w_down).equal(dequantize(down)[:, perm])


def streams_of(weight: QuantizedWeight, order: torch.Tensor | None) -> StoredWeight:
    in_file = weight.codes if order is None else weight.codes[:, order.argsort()]
    words = pack_stream(in_file.T, weight.bits)
    return StoredWeight(words, weight.scales, weight.zeros, weight.bits, weight.group_size, order, weight.perm)


@pytest.mark.parametrize("order", [None, torch.arange(16).flip(0)])
def test_streams_are_joined_and_reordered_as_their_codes_are(order):
    one, two = (round_to_nearest(m, 4, 4) for m in torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0)))
    found, expected = stack_outputs([streams_of(one, order), streams_of(two, order)]), stack_outputs([one, two])
    assert isinstance(found, StoredWeight)
    assert isinstance(expected, QuantizedWeight)
    rows = torch.arange(12).flip(0)
    for streams, codes in ((found, expected), (found.take_outputs(rows), expected.take_outputs(rows))):
        assert streams.shape == codes.shape
        assert dequantize(streams).equal(dequantize(codes))


def test_streams_of_another_order_or_beside_codes_are_not_joined():
    weight = round_to_nearest(torch.randn(6, 16, generator=torch.Generator().manual_seed(0)), 4, 4)
    streams = streams_of(weight, None)
    assert stack_outputs([streams, streams_of(weight, torch.arange(16).flip(0))]) is None
    assert stack_outputs([streams, weight]) is None


def test_folding_leaves_the_order_of_the_stream():
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(16, generator=generator)
    gate, up = (round_to_nearest(m, 4, 4) for m in torch.randn(2, 16, 8, generator=generator))
    down = replace(round_to_nearest(torch.randn(8, 16, generator=generator), 4, 4), perm=order)
    folded = fold_down_order(ExpertWeights(streams_of(gate, None), streams_of(up, None), streams_of(down, order)))
    expected = fold_down_order(ExpertWeights(gate, up, down))
    for name in ("w_gate", "w_up", "w_down"):
        assert dequantize(getattr(folded, name)).equal(dequantize(getattr(expected, name)))
