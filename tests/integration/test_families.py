"""Models of each family as transformers and other tools write them, through real expert servers in groups."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import layouts
import pytest
import torch
from chat_files import copy_version, write_json
from checkpoints import (
    OLMOE,
    QWEN3_MOE,
    Quantization,
    RandomCheckpoint,
    awq_quantization,
    gptq_quantization,
    packed_quantization,
    write_mixtral,
)
from integration_mesh import run_mesh
from mistral_common.protocol.instruct.messages import UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from oracle import oracle
from served_logits import CPU, NUM_TOKENS, REFERENCE, TOKENS, assert_equals_transformers, logits, with_servers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from expertmesh.checkpoint.quantizer import Recipe, quantize
from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.checkpoint.shards import split
from expertmesh.cli.local_servers import place_experts
from expertmesh.client import Sampling
from expertmesh.kernels.quantize import dequantize, round_to_nearest
from expertmesh.model.experts import LocalExperts

# As narrow as can be, with as many experts, of which as many are chosen, as the published models have.
NARROW = {
    "vocab_size": 512,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "eos_token_id": [2, 5],
}
QWEN3_SIZES = {"head_dim": 32, "num_key_value_heads": 1, "moe_intermediate_size": 32, "norm_topk_prob": True}
PUBLISHED = {
    "qwen3_moe": {**QWEN3_SIZES, "num_experts": 128, "num_experts_per_tok": 8},
    "olmoe": {"num_key_value_heads": 4, "intermediate_size": 32, "num_experts": 64, "num_experts_per_tok": 8},
}
FORMATS = {
    "plain": None,
    "awq": awq_quantization(32),
    "gptq": gptq_quantization(4, 64, desc_act=True),
    "compressed-tensors": packed_quantization(4, 32, symmetric=False),
}
FAMILIES = {"qwen3_moe": {**QWEN3_MOE, "vocab_size": 128}, "olmoe": {**OLMOE, "vocab_size": 128}}
# Proportions of Mixtral-8x22B: 48 query heads, 8 key-value heads, its vocabulary.
MIXTRAL_8X22B = {
    "hidden_size": 192,
    "intermediate_size": 256,
    "num_attention_heads": 48,
    "num_key_value_heads": 8,
    "head_dim": 16,
    "vocab_size": 32768,
    "max_position_embeddings": 65536,
}


def save_pretrained(directory: Path, model_type: str, **sizes: Any) -> PreTrainedModel:
    """Let transformers write a random model, whose norms and gates are no mere beginnings."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **NARROW, **sizes)).eval()
    for name, weights in model.named_parameters():
        torch.nn.init.normal_(weights, float("norm" in name), 0.1 if "norm" in name else weights.shape[-1] ** -0.5)
    model.save_pretrained(directory)
    return model


def assert_equals(model: PreTrainedModel, found: torch.Tensor, max_error: float = 1e-5) -> None:
    with torch.no_grad():
        expected = model(TOKENS[None]).logits[0]
    assert ((found - expected).norm() / expected.norm()).item() <= max_error


@pytest.mark.parametrize("model_type", PUBLISHED)
def test_what_transformers_writes_is_served_in_groups_of_16_experts(tmp_path, model_type):
    model = save_pretrained(tmp_path, model_type, **PUBLISHED[model_type])
    num_servers = PUBLISHED[model_type]["num_experts"] // 16
    remote = asyncio.run(with_servers(tmp_path, logits, num_servers))
    assert_equals(model, remote)
    checkpoint = Checkpoint.open(tmp_path)
    assert logits(LocalExperts.load(checkpoint.model, checkpoint, REFERENCE), checkpoint, checkpoint.model).equal(
        remote
    )


@pytest.mark.parametrize("model_type", PUBLISHED)
def test_answers_of_a_mesh_equal_those_of_transformers(tmp_path, model_type):
    """Greedy ids, of several prompts at a time, through gateway, scheduler and expert servers."""
    model = save_pretrained(tmp_path, model_type, **PUBLISHED[model_type])
    write_json(tmp_path, "byte-level")
    prompts = [TOKENS[start:].tolist() for start in range(0, NUM_TOKENS, 4)]
    hosts = place_experts(PUBLISHED[model_type]["num_experts"], 3, {})

    async def answer() -> list[list[int]]:
        async with run_mesh(tmp_path, hosts, backend="reference") as mesh:
            asked = (mesh.ids(prompt, temperature=0.0, max_tokens=12, ignore_eos=True) for prompt in prompts)
            return list(await asyncio.gather(*asked))

    expected = [generate(model, prompt, 12) for prompt in prompts]
    assert asyncio.run(answer()) == expected


def generate(model: PreTrainedModel, prompt: list[int], count: int) -> list[int]:
    options = {"max_new_tokens": count, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    ids: list[int] = model.generate(torch.tensor([prompt]), **options)[0, len(prompt) :].tolist()
    return ids


@pytest.mark.parametrize("quantization", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_every_format(tmp_path, family, quantization):
    assert_equals_transformers(write_mixtral(tmp_path, quantization=quantization, **family), num_servers=5)


@pytest.mark.parametrize("quantization", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_every_format_on_the_kernels_of_the_cpu(tmp_path, family, quantization):
    made = write_mixtral(tmp_path, quantization=quantization, **family)
    assert_equals_transformers(made, on_cpu, max_error=1e-3, backend="cpu")


def on_cpu(*arguments: Any) -> torch.Tensor:
    return logits(*arguments, backend=CPU)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_experts_in_one_piece(tmp_path, family):
    made = write_mixtral(tmp_path, dtype=torch.bfloat16, **family)
    layouts.fused_hf(made)
    assert_equals_transformers(made)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_split_and_quantized(tmp_path, family):
    (tmp_path / "model").mkdir()
    made = write_mixtral(tmp_path / "model", dtype=torch.bfloat16, **family)
    split(Checkpoint.open(made.directory), tmp_path / "shards", silent)
    assert_equals_transformers(replace(made, directory=tmp_path / "shards"))
    quantize(Checkpoint.open(made.directory), tmp_path / "awq", Recipe("awq", 4, 64), silent)
    for name in [name for name in made.dense if "_proj." in name or ".experts." in name]:
        made.dense[name] = dequantize(round_to_nearest(made.dense[name], 4, 64))
    assert_equals_transformers(replace(made, directory=tmp_path / "awq"))


def silent(done: int, total: int) -> None:
    pass


@pytest.mark.parametrize("quantization", FORMATS.values(), ids=FORMATS)
def test_a_narrow_mixtral_8x22b(tmp_path, quantization):
    assert_equals_transformers(write_mixtral(tmp_path, quantization=quantization, **MIXTRAL_8X22B))


def test_a_narrow_mixtral_8x22b_is_asked_in_the_ids_of_its_tokenizer(tmp_path):
    made = write_mixtral(tmp_path, **MIXTRAL_8X22B)
    copy_version(tmp_path, 3)
    request = ChatCompletionRequest(messages=[UserMessage(content="Which experts answer?")])
    prompt = MistralTokenizer.v3().encode_chat_completion(request).tokens

    async def ask() -> list[int]:
        sampling = Sampling(temperature=0.0, max_tokens=8, ignore_eos=True)
        async with run_mesh(tmp_path, backend="reference") as mesh:
            pieces = mesh.client.chat([("user", "Which experts answer?")], sampling)
            return [token_id async for piece in pieces for token_id in piece.token_ids]

    assert asyncio.run(ask()) == generate(oracle(made), prompt, 8)


@pytest.mark.parametrize("layout", [layouts.mistral, layouts.mistral_pth])
def test_a_narrow_mixtral_8x22b_as_it_was_released(tmp_path, layout):
    made = write_mixtral(tmp_path, dtype=torch.bfloat16, **MIXTRAL_8X22B)
    layout(made)
    assert_equals_transformers(made)


MERGE = {"vocab_size": 800, "intermediate_size": 128}
# Experts, those chosen, servers: of mergekit's merges, groups that do not divide evenly, one chosen, all chosen.
MERGES = [
    (2, 1, 1),
    (2, 2, 2),
    (3, 2, 2),
    (3, 3, 3),
    (4, 1, 3),
    (4, 2, 3),
    (4, 4, 1),
    (5, 3, 4),
    (16, 2, 5),
    (16, 16, 7),
]


@pytest.mark.parametrize(("num_experts", "num_chosen", "num_servers"), MERGES)
def test_merges_of_any_number_of_experts(tmp_path, num_experts, num_chosen, num_servers):
    made = write_merge(tmp_path, num_local_experts=num_experts, num_experts_per_tok=num_chosen)
    assert_equals_transformers(made, num_servers=num_servers)


@pytest.mark.parametrize(("num_experts", "num_chosen", "num_servers"), [(3, 2, 2), (5, 1, 2), (16, 4, 3)])
@pytest.mark.parametrize("quantization", [FORMATS["awq"], FORMATS["gptq"]], ids=["awq", "gptq"])
def test_merges_that_are_quantized(tmp_path, num_experts, num_chosen, num_servers, quantization):
    sizes = {"num_local_experts": num_experts, "num_experts_per_tok": num_chosen}
    made = write_merge(tmp_path, quantization=quantization, **sizes)
    assert_equals_transformers(made, num_servers=num_servers)


@pytest.mark.parametrize(("num_experts", "num_chosen"), [(2, 1), (3, 3), (5, 2)])
def test_a_merge_answers_alike_in_any_groups(tmp_path, num_experts, num_chosen):
    write_merge(tmp_path, num_local_experts=num_experts, num_experts_per_tok=num_chosen)

    async def answer(num_servers: int | None) -> list[list[int]]:
        hosts = place_experts(num_experts, num_servers, {}) if num_servers else None
        async with run_mesh(tmp_path, hosts) as mesh:
            texts = [TOKENS[start:].tolist() for start in (0, 5, 9)]
            asked = (mesh.ids(ids, temperature=0.0, max_tokens=8, ignore_eos=True) for ids in texts)
            return list(await asyncio.gather(*asked))

    alone = asyncio.run(answer(None))
    assert all(asyncio.run(answer(num_servers)) == alone for num_servers in range(1, num_experts + 1))


def write_merge(directory: Path, quantization: Quantization | None = None, **sizes: Any) -> RandomCheckpoint:
    """Write a Mixtral as mergekit does: a tokenizer.json and its own recipe beside the model."""
    made = write_mixtral(directory, dtype=torch.bfloat16, quantization=quantization, **MERGE, **sizes)
    (directory / "tokenizer.model").unlink()
    write_json(directory, "metaspace")
    (directory / "mergekit_moe_config.yml").write_text("base_model: some/model\ngate_mode: hidden\ndtype: bfloat16\n")
    return made
