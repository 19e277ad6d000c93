"""Every kind of checkpoint through real expert servers: logits equal those of transformers on its plain weights."""

import asyncio
from dataclasses import replace
from functools import partial

import layouts
import pytest
import torch
from checkpoints import (
    DENSE_MODEL,
    auto_round_quantization,
    awq_quantization,
    gptq_quantization,
    packed_quantization,
    several_groups,
    write_mixtral,
)
from number_formats import WHOLE, also, compressed_floats, compressed_integers, four_bit, fp8, llm_int8
from served_logits import CPU, REFERENCE, assert_equals_transformers, logits, with_servers
from torch.nn.functional import silu

from expertmesh.architectures.model_config import ModelConfig
from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.checkpoint.shards import split
from expertmesh.kernels.cpu import CpuBackend
from expertmesh.kernels.native.library import load_default
from expertmesh.kernels.quantize import dequantize, round_to_nearest
from expertmesh.model.experts import Experts, LayerCall, LocalExperts, run_experts

SMALL = {"num_local_experts": 4, "intermediate_size": 256, "vocab_size": 128}


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group_size", [-1, 128, 64, 32])
@pytest.mark.parametrize("desc_act", [False, True])
@pytest.mark.parametrize(("sym", "is_v2"), [(True, False), (False, False), (False, True)])
def test_gptq(tmp_path, bits, group_size, desc_act, sym, is_v2):
    quantization = gptq_quantization(bits, group_size, desc_act, sym, is_v2)
    assert_equals_transformers(write_mixtral(tmp_path, quantization=quantization, dtype=torch.float32, **SMALL))


@pytest.mark.parametrize("scales", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("file", ["config.json", "quantize_config.json"])
@pytest.mark.parametrize("biases", [None, torch.zeros])
def test_gptq_as_different_tools_write_it(tmp_path, scales, file, biases):
    quantization = gptq_quantization(4, 64, True, scales=scales, file=file, biases=biases)
    assert_equals_transformers(write_mixtral(tmp_path, quantization=quantization, **SMALL))


@pytest.mark.parametrize("group_size", [-1, 128, 64, 32])
@pytest.mark.parametrize("zero_point", [True, False])
@pytest.mark.parametrize("file", ["config.json", "quant_config.json"])
def test_awq(tmp_path, group_size, zero_point, file):
    quantization = awq_quantization(group_size, zero_point, file)
    assert_equals_transformers(write_mixtral(tmp_path, quantization=quantization, **SMALL))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [-1, 128, 32])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("is_ordered", [False, True])
def test_compressed_tensors(tmp_path, bits, group_size, symmetric, is_ordered):
    quantization = packed_quantization(bits, group_size, symmetric, is_ordered and group_size > 0)
    assert_equals_transformers(write_mixtral(tmp_path, quantization=quantization, **SMALL))


MIXED = several_groups(
    packed_quantization(4, 32, symmetric=False, scales=torch.bfloat16),
    {
        "layers.1.block_sparse_moe": packed_quantization(8, 32, symmetric=False),
        "experts.2": packed_quantization(8, -1),
        "v_proj": packed_quantization(4, 32),
    },
)


PACKED_8 = packed_quantization(8, -1)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_compressed_tensors_of_several_groups(tmp_path, backend):
    made = write_mixtral(tmp_path, quantization=MIXED, **SMALL)
    run = partial(logits, backend=CPU) if backend == "cpu" else logits
    assert_equals_transformers(made, run, max_error=1e-3 if backend == "cpu" else 1e-5, backend=backend)


NUMBERS = [
    *(compressed_floats(block) for block in (WHOLE, (1, -1), (1, 32), (128, 128), (48, 80))),
    compressed_floats(WHOLE, torch.float32, input_scale=True),
    *(compressed_integers(block) for block in (WHOLE, (1, -1), (1, 32))),
    compressed_integers(symmetric=False),
    *(fp8(block, scale) for block in (WHOLE, (128, 128), (48, 80)) for scale in ("weight_scale", "weight_scale_inv")),
    fp8(static=True),
    llm_int8(),
    *(four_bit(quant_type, is_nested) for quant_type in ("nf4", "fp4") for is_nested in (False, True)),
    four_bit(block_size=128, storage=torch.bfloat16),
]


@pytest.mark.parametrize("quantization", NUMBERS)
def test_numbers_with_scales(tmp_path, quantization):
    assert_equals_transformers(write_mixtral(tmp_path, quantization=quantization, **SMALL))


@pytest.mark.parametrize("quantization", [compressed_floats(), fp8((128, 128), "weight_scale_inv"), four_bit()])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_values_are_unpacked_to_the_dtype_that_the_model_had(tmp_path, quantization, dtype):
    made = write_mixtral(tmp_path, quantization=quantization, dtype=dtype, **SMALL)
    assert Checkpoint.open(tmp_path).expert(0, 0).w_down.data.dtype == dtype
    assert_equals_transformers(made)


ALL = ("gate.weight", "lm_head.", "embed_tokens.")


@pytest.mark.parametrize(
    "quantization",
    [
        gptq_quantization(4, 32, desc_act=True, sym=False),
        awq_quantization(32),
        packed_quantization(4, 32, symmetric=False, is_ordered=True),
        compressed_floats(),
        compressed_integers(),
        fp8((128, 128), "weight_scale_inv"),
        llm_int8(),
        four_bit(is_nested=True),
    ],
)
def test_gates_heads_and_embeddings_may_be_quantized_too(tmp_path, quantization):
    settings = {**SMALL, "num_local_experts": 8}
    assert_equals_transformers(write_mixtral(tmp_path, quantization=also(quantization, *ALL), **settings))


def test_an_embedding_that_is_quantized_may_be_the_head_too(tmp_path):
    settings = {**SMALL, "tie_word_embeddings": True}
    assert_equals_transformers(write_mixtral(tmp_path, quantization=also(compressed_floats(), *ALL), **settings))


def test_floats_and_packed_codes_in_one_checkpoint(tmp_path):
    whole = several_groups(compressed_floats(), {"experts.2": packed_quantization(4, 32), "v_proj": PACKED_8})
    groups = whole.config["config_groups"]
    groups |= {name: {**groups[name], "format": "pack-quantized"} for name in ("group_1", "group_2")}
    made = write_mixtral(
        tmp_path, quantization=replace(whole, config={**whole.config, "format": "mixed-precision"}), **SMALL
    )
    assert_equals_transformers(made)


@pytest.mark.parametrize(
    ("packing", "quantization"),
    [
        ("auto_round:auto_gptq", gptq_quantization(4, 32)),
        ("auto_round:auto_gptq", gptq_quantization(2, 64, sym=False)),
        ("auto_round:gptqmodel", gptq_quantization(4, 128, sym=False, is_v2=True)),
        ("auto_round", gptq_quantization(3, 32, sym=False, is_v2=True)),
        ("auto_round:auto_awq", awq_quantization(32)),
    ],
)
def test_auto_round(tmp_path, packing, quantization):
    quantization = auto_round_quantization(packing, quantization)
    assert_equals_transformers(write_mixtral(tmp_path, quantization=quantization, **SMALL))


OTHERS = {"v_proj": gptq_quantization(8, 32), "experts.2": gptq_quantization(3, 64), "w2": gptq_quantization(2, -1)}


def test_auto_round_with_other_bits_in_some_modules(tmp_path):
    others = {**OTHERS, "k_proj": gptq_quantization(8, 32, sym=False)}
    whole = replace(gptq_quantization(4, 32), others=others)
    modules = {name: {key: how.config[key] for key in ("bits", "group_size", "sym")} for name, how in others.items()}
    quantization = auto_round_quantization("auto_round:auto_gptq", whole, extra_config=modules)
    assert_equals_transformers(write_mixtral(tmp_path, quantization=quantization, **SMALL))


@pytest.mark.parametrize("desc_act", [False, True])
def test_gptq_with_other_bits_in_some_modules(tmp_path, desc_act):
    whole = gptq_quantization(4, 32, desc_act)
    modules = {f"+:.*{name}": {"bits": how.config["bits"], "group_size": -1} for name, how in OTHERS.items()}
    modules |= {f".*{name}": {key: how.config[key] for key in ("bits", "group_size")} for name, how in OTHERS.items()}
    whole = replace(whole, config={**whole.config, "dynamic": {"-:.*gate": {}, **modules}}, others=OTHERS)
    assert_equals_transformers(write_mixtral(tmp_path, quantization=whole, **SMALL))


@pytest.mark.parametrize(
    "quantization", [packed_quantization(4, 32, is_ordered=True), MIXED, compressed_floats(), llm_int8(), four_bit()]
)
def test_local_and_remote_experts_give_the_same_bits(tmp_path, quantization):
    write_mixtral(tmp_path, quantization=quantization, **SMALL)
    checkpoint = Checkpoint.open(tmp_path)
    local = logits(LocalExperts.load(checkpoint.model, checkpoint, REFERENCE), checkpoint, checkpoint.model)
    assert asyncio.run(with_servers(tmp_path, logits)).equal(local)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shards", [1, 3])
def test_plain(tmp_path, dtype, shards):
    assert_equals_transformers(write_mixtral(tmp_path, dtype=dtype, shards=shards, **SMALL))


@pytest.mark.parametrize(
    "layout",
    [
        layouts.newer_hf,
        layouts.fused_hf,
        layouts.mistral,
        layouts.mistral_stacked,
        layouts.paddle,
        layouts.torch_bin,
        layouts.mixed_hf,
        layouts.mistral_pth,
        layouts.torch_bin_of_old,
    ],
)
def test_layouts_of_other_tools(tmp_path, layout):
    made = write_mixtral(tmp_path, dtype=torch.bfloat16, **SMALL)
    layout(made)
    assert_equals_transformers(made)


@pytest.mark.parametrize(
    "quantization",
    [None, awq_quantization(32), gptq_quantization(4, 32, desc_act=True), compressed_floats(), llm_int8(), four_bit()],
)
@pytest.mark.parametrize("sliding_window", [None, 8, 21, 64])
def test_dense_mistral(tmp_path, quantization, sliding_window):
    overrides = {**SMALL, **DENSE_MODEL, "sliding_window": sliding_window}
    assert_equals_transformers(write_mixtral(tmp_path, quantization=quantization, **overrides))


def test_dense_mistral_as_it_was_released(tmp_path):
    made = write_mixtral(tmp_path, dtype=torch.bfloat16, **{**SMALL, **DENSE_MODEL, "sliding_window": 8})
    layouts.mistral(made)
    assert_equals_transformers(made)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("model", [{}, DENSE_MODEL], ids=["mixtral", "mistral"])
def test_quantized_while_loading(tmp_path, bits, model):
    made = write_mixtral(tmp_path, dtype=torch.bfloat16, **{**SMALL, **model})
    for name in [name for name in made.dense if "_proj." in name or ".experts." in name]:
        made.dense[name] = dequantize(round_to_nearest(made.dense[name], bits, 128))
    assert_equals_transformers(made, round_to_bits=bits)


@pytest.mark.parametrize(
    "quantization",
    [
        None,
        awq_quantization(32),
        gptq_quantization(3, 32, desc_act=True),
        MIXED,
        compressed_floats(WHOLE, input_scale=True),
        compressed_integers(symmetric=False),
        fp8((48, 80), "weight_scale_inv"),
        llm_int8(),
        four_bit(is_nested=True),
        four_bit(storage=torch.bfloat16),
    ],
)
def test_split(tmp_path, quantization):
    (tmp_path / "model").mkdir()
    made = write_mixtral(tmp_path / "model", quantization=quantization, dtype=torch.bfloat16, **SMALL)
    split(Checkpoint.open(made.directory), tmp_path / "shards", lambda done, total: None)
    assert_equals_transformers(replace(made, directory=tmp_path / "shards"))


@pytest.mark.skipif(load_default() is None, reason="no C kernels here; torch's round activations to bfloat16")
@pytest.mark.parametrize(
    "quantization",
    [
        None,
        awq_quantization(32),
        awq_quantization(-1),
        *(gptq_quantization(bits, 64, desc_act=True, sym=False) for bits in (2, 3, 4, 8)),
        gptq_quantization(8, -1),
        packed_quantization(4, 32, symmetric=False, is_ordered=True),
        packed_quantization(8, -1),
        compressed_floats(),
        compressed_integers(symmetric=False),
        llm_int8(),
        four_bit(),
    ],
)
@pytest.mark.parametrize("model", [{}, DENSE_MODEL], ids=["mixtral", "mistral"])
def test_on_the_kernels_of_the_cpu(tmp_path, quantization, model):
    made = write_mixtral(tmp_path, quantization=quantization, dtype=torch.float32, **{**SMALL, **model})
    assert_equals_transformers(made, partial(logits, backend=CPU), max_error=1e-3, backend="cpu")


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("model", [{}, DENSE_MODEL], ids=["mixtral", "mistral"])
def test_on_the_kernels_that_round_activations_to_8_bits(tmp_path, bits, model):
    quantization = gptq_quantization(bits, 64, desc_act=True, sym=False)
    made = write_mixtral(tmp_path, quantization=quantization, dtype=torch.float32, **{**SMALL, **model})
    backend = CpuBackend(activation_bits=8)
    assert_equals_transformers(made, partial(logits, backend=backend), max_error=2e-2, backend="cpu-a8")


def test_biases_that_are_not_zero_are_added(tmp_path):
    quantization = gptq_quantization(4, 32, desc_act=True, biases=lambda num_out: torch.linspace(-1, 1, num_out))
    made = write_mixtral(tmp_path, quantization=quantization, **SMALL)
    x = torch.randn(5, 128, generator=torch.Generator().manual_seed(1))

    def dispatch(experts: Experts, checkpoint: Checkpoint, config: ModelConfig) -> torch.Tensor:
        call = LayerCall(1, x, torch.tensor([[0, 3]] * 5), torch.tensor([[0.25, 0.75]] * 5))
        return run_experts(experts, call)

    def expert(index: int) -> torch.Tensor:
        prefix = f"model.layers.1.block_sparse_moe.experts.{index}"
        w1, w2, w3 = (made.dense[f"{prefix}.w{i}.weight"] for i in (1, 2, 3))
        b1, b2 = (torch.linspace(-1, 1, num_out).half().float() for num_out in (256, 128))
        return (silu(x @ w1.T + b1) * (x @ w3.T + b1)) @ w2.T + b2

    found = asyncio.run(with_servers(tmp_path, dispatch))
    torch.testing.assert_close(found, 0.25 * expert(0) + 0.75 * expert(3), atol=1e-5, rtol=1e-5)
