"""The CPU backend against the reference, by relative error."""

import pytest
import torch
from letting_go import assert_each_is_gone_before_the_next

from expertmesh.kernels import awq
from expertmesh.kernels.cpu import MIN_ROWS_TO_DEQUANTIZE, CpuBackend
from expertmesh.kernels.native.library import load_default
from expertmesh.kernels.paged_attention import PagedContexts
from expertmesh.kernels.quantize import round_to_nearest
from expertmesh.kernels.reference import ReferenceBackend
from expertmesh.kernels.weights import DenseWeight, ExpertWeights, QuantizedWeight, Weight

NATIVE = CpuBackend()
TORCH = CpuBackend(is_native=False)
REFERENCE = ReferenceBackend(torch.device("cpu"))
MANY = MIN_ROWS_TO_DEQUANTIZE + 5
both_ways = pytest.mark.parametrize("cpu", [NATIVE, TORCH], ids=["native", "torch"])
# bfloat16 keeps 8 bits: activations, scales and shifts are each off by up to 2^-9.
HALF_ERROR = 0.01


def random_matrix(num_out: int, num_in: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(num_out, num_in, generator=torch.Generator().manual_seed(seed)) * num_in**-0.5


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    if not expected.numel():
        return 0.0
    return ((found.float() - expected.float()).norm() / expected.float().norm()).item()


def random_weight(storage: str, num_out: int, num_in: int, seed: int = 0) -> Weight:
    matrix = random_matrix(num_out, num_in, seed)
    if storage.startswith("g"):
        return round_to_nearest(matrix, 4, int(storage[1:]))
    return DenseWeight(matrix.to(getattr(torch, storage)))


# Group sizes of the op, ones that it does not take, and outputs that do not fill its tiles of 32 or blocks of 1024.
MATRICES = [
    *((f"g{group_size}", 64, 256) for group_size in (16, 32, 64, 128, 256)),
    *(("g32", num_out, 96) for num_out in (1, 8, 16, 24, 48, 80, 1056)),
    ("g96", 64, 96),
    *((dtype, *shape) for dtype in ("bfloat16", "float16", "float32") for shape in ((64, 128), (37, 41), (1030, 24))),
]


@both_ways
@pytest.mark.parametrize(("storage", "num_out", "num_in"), MATRICES)
def test_linear_is_close_to_the_reference(cpu, storage, num_out, num_in):
    weight = random_weight(storage, num_out, num_in)
    fast, exact = cpu.linear(weight), REFERENCE.linear(weight)
    for num_rows in (0, 1, 2, 9, MANY):
        x = torch.randn(num_rows, num_in, generator=torch.Generator().manual_seed(num_rows))
        found = fast(x)
        assert found.shape == (num_rows, num_out)
        assert relative_error(found, exact(x)) < (1e-5 if storage in ("float32", "float16") else HALF_ERROR)


@pytest.mark.parametrize("storage", ["g32", "g16", "bfloat16", "float16", "float32"])
@pytest.mark.parametrize("backend", [NATIVE, TORCH, REFERENCE], ids=["native", "torch", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_linear_answers_in_the_dtype_of_its_input(backend, storage, dtype):
    linear = backend.linear(random_weight(storage, 32, 64))
    for num_rows in (1, MANY):
        assert linear(torch.ones(num_rows, 64, dtype=dtype)).dtype == dtype


def random_expert(storage: str, hidden: int, inner: int, seed: int) -> ExpertWeights:
    return ExpertWeights(
        w_gate=random_weight(storage, inner, hidden, seed),
        w_up=random_weight(storage, inner, hidden, seed + 100),
        w_down=random_weight(storage, hidden, inner, seed + 200),
    )


@both_ways
@pytest.mark.parametrize("storage", ["g32", "g64", "g128", "bfloat16", "float16", "float32"])
@pytest.mark.parametrize(
    "num_rows", [(0, 0, 0), (1, 0, 0), (0, 0, 1), (3, 0, 2), (0, 17, 1), (MANY, 0, 1), (1, 1, 1)], ids=str
)
def test_experts_are_close_to_the_reference(cpu, storage, num_rows):
    experts = [random_expert(storage, 128, 256, seed) for seed in range(3)]
    total = sum(num_rows)
    generator = torch.Generator().manual_seed(total)
    x = torch.randn(total, 128, generator=generator).bfloat16()
    row_weights = torch.rand(total, generator=generator)
    found = cpu.experts(experts)(x, num_rows, row_weights)
    assert found.shape == (total, 128)
    assert found.dtype == torch.float32
    assert relative_error(found, REFERENCE.experts(experts)(x, num_rows, row_weights)) < 2 * HALF_ERROR


@both_ways
def test_an_expert_is_let_go_before_the_next_is_read(cpu):
    assert_each_is_gone_before_the_next(cpu.experts, lambda seed: random_expert("g64", 128, 256, seed))


@both_ways
@pytest.mark.parametrize("group_size", [32, 64, 128, 256])
def test_packed_weights_take_hardly_more_than_in_the_file(cpu, group_size):
    weight = random_weight(f"g{group_size}", 512, 512)
    assert isinstance(weight, QuantizedWeight)
    in_file = sum(tensor.nbytes for tensor in awq.pack(weight).as_dict().values())
    assert in_file <= cpu.linear(weight).num_bytes <= 1.15 * in_file


@pytest.mark.parametrize(("storage", "bytes_per_value"), [("bfloat16", 2), ("float16", 2), ("float32", 4)])
def test_dense_weights_keep_their_storage(storage, bytes_per_value):
    expert = random_expert(storage, 32, 64, 0)
    assert NATIVE.experts([expert, expert]).num_bytes == 2 * 3 * 32 * 64 * bytes_per_value
    assert REFERENCE.experts([expert]).num_bytes == 3 * 32 * 64 * 4


def test_without_native_kernels_codes_of_another_width_become_a_dense_matrix():
    weight = round_to_nearest(random_matrix(32, 64), 3, 32)
    assert TORCH.linear(weight).num_bytes == 32 * 64 * 2
    x = random_matrix(3, 64, seed=1)
    assert relative_error(TORCH.linear(weight)(x), REFERENCE.linear(weight)(x)) < HALF_ERROR


@pytest.mark.skipif(load_default() is None, reason="needs a C compiler and AVX2")
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("group_size", [16, 96, 192])
def test_native_kernels_take_every_width_and_group(bits, group_size):
    weight = round_to_nearest(random_matrix(40, 192), bits, group_size)
    x = random_matrix(3, 192, seed=1)
    assert NATIVE.linear(weight).num_bytes < 40 * 192 * 2
    assert relative_error(NATIVE.linear(weight)(x), REFERENCE.linear(weight)(x)) < 2e-4


@both_ways
@pytest.mark.parametrize(("dtype", "max_error"), [(torch.float32, 1e-6), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("window", [3, 100])
@pytest.mark.parametrize("num_new", [(1, 1, 1), (10, 1, 5)])
def test_paged_attention_is_close_to_the_reference(cpu, dtype, max_error, window, num_new):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(sum(num_new), 6, 24, generator=generator)  # [T, H, d]
    keys, values = torch.randn(2, 32, 2, 24, generator=generator).unbind()  # [P, K, d]
    contexts = PagedContexts(torch.randperm(30, generator=generator).view(3, 10), num_new, (10, 1, 7), window)
    found = cpu.attend(query.to(dtype), keys.to(dtype), values.to(dtype), contexts)
    assert found.dtype == dtype
    assert relative_error(found, REFERENCE.attend(query, keys, values, contexts)) < max_error
