"""A random Mixtral of real width with two layers, in bfloat16 and as AWQ. Knows files, not engines.

The AWQ weights are the bfloat16 ones, rounded to nearest. Tensors are made and written a shard at a time.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from expertmesh.kernels import awq
from expertmesh.kernels.quantize import round_to_nearest
from peers.cases import VOCAB_SIZE

HIDDEN, FFN, NUM_LAYERS, NUM_EXPERTS, NUM_HEADS, NUM_KV_HEADS = 4096, 14336, 2, 8, 32, 8
HEAD = HIDDEN // NUM_HEADS
GROUP_SIZE = 128

CONFIG: dict[str, Any] = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": NUM_HEADS,
    "num_key_value_heads": NUM_KV_HEADS,
    "num_local_experts": NUM_EXPERTS,
    "num_experts_per_tok": 2,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "max_position_embeddings": 32768,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "bfloat16",
}
QUANTIZATION = {"quant_method": "awq", "bits": 4, "group_size": GROUP_SIZE, "zero_point": True, "version": "gemm"}

Tensors = dict[str, torch.Tensor]


def write_checkpoints(bf16: Path, awq_directory: Path) -> None:
    """Write both checkpoints unless they are there; one without config.json was not finished and is written anew."""
    if (awq_directory / "config.json").exists():
        return
    for directory in (bf16, awq_directory):
        directory.mkdir(parents=True, exist_ok=True)
    weight_maps: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for file, tensors in _shards():
        _save(bf16, file, tensors, weight_maps[0])
        _save(awq_directory, file, _quantize(tensors), weight_maps[1])
    shutil.copy(_tokenizer_file(), awq_directory / "tokenizer.model")
    _finish(bf16, CONFIG, weight_maps[0])
    _finish(awq_directory, {**CONFIG, "quantization_config": QUANTIZATION}, weight_maps[1])


def _tokenizer_file() -> Path:
    import mistral_common

    return Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1"


def _shards() -> Iterator[tuple[str, Tensors]]:
    """Draw the weights: matrices whose products have about the size of their input, norms around 1."""
    generator = torch.Generator().manual_seed(0)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator).mul_(columns**-0.5).to(torch.bfloat16)

    def norm() -> torch.Tensor:
        return (1 + 0.1 * torch.randn(HIDDEN, generator=generator)).to(torch.bfloat16)

    yield (
        "ends.safetensors",
        {
            "model.embed_tokens.weight": torch.randn(VOCAB_SIZE, HIDDEN, generator=generator).to(torch.bfloat16),
            "model.norm.weight": norm(),
            "lm_head.weight": matrix(VOCAB_SIZE, HIDDEN),
        },
    )
    for layer in range(NUM_LAYERS):
        prefix = f"model.layers.{layer}"
        yield (
            f"layer-{layer}.safetensors",
            {
                f"{prefix}.input_layernorm.weight": norm(),
                f"{prefix}.post_attention_layernorm.weight": norm(),
                f"{prefix}.self_attn.q_proj.weight": matrix(HIDDEN, HIDDEN),
                f"{prefix}.self_attn.k_proj.weight": matrix(NUM_KV_HEADS * HEAD, HIDDEN),
                f"{prefix}.self_attn.v_proj.weight": matrix(NUM_KV_HEADS * HEAD, HIDDEN),
                f"{prefix}.self_attn.o_proj.weight": matrix(HIDDEN, HIDDEN),
                f"{prefix}.block_sparse_moe.gate.weight": matrix(NUM_EXPERTS, HIDDEN),
            },
        )
        for expert in range(NUM_EXPERTS):
            place = f"{prefix}.block_sparse_moe.experts.{expert}"
            yield (
                f"layer-{layer}-expert-{expert}.safetensors",
                {
                    f"{place}.w1.weight": matrix(FFN, HIDDEN),
                    f"{place}.w3.weight": matrix(FFN, HIDDEN),
                    f"{place}.w2.weight": matrix(HIDDEN, FFN),
                },
            )


def _quantize(tensors: Tensors) -> Tensors:
    """Pack the matrices that AWQ quantizes: attention and experts."""
    packed: Tensors = {}
    for name, tensor in tensors.items():
        if "_proj." in name or ".experts." in name:
            parts = vars(awq.pack(round_to_nearest(tensor, awq.BITS, GROUP_SIZE)))
            packed |= {f"{name.removesuffix('.weight')}.{part}": value for part, value in parts.items()}
        else:
            packed[name] = tensor
    return packed


def _save(directory: Path, file: str, tensors: Tensors, weight_map: dict[str, str]) -> None:
    save_file(tensors, directory / file, metadata={"format": "pt"})
    weight_map.update(dict.fromkeys(tensors, file))


def _finish(directory: Path, config: dict[str, Any], weight_map: dict[str, str]) -> None:
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
