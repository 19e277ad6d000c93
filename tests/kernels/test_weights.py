import torch

from expertmesh.kernels.quantize import dequantize, round_to_nearest
from expertmesh.kernels.weights import DenseWeight, QuantizedWeight, stack_outputs


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
