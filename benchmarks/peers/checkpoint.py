"""A random Mixtral, of real width with two layers or small, in bfloat16 and as AWQ. Knows files, not engines.

The AWQ weights are the bfloat16 ones, rounded to nearest. Tensors are made and written a shard at a time.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from expertmesh.kernels import awq
from expertmesh.kernels.quantize import round_to_nearest
from peers.cases import VOCAB_SIZE

GROUP_SIZE = 128


@dataclass(frozen=True)
class Shape:
    """Sizes of a Mixtral; all that AWQ quantizes reads a multiple of its group size."""

    hidden: int
    ffn: int
    num_layers: int
    num_experts: int
    num_heads: int
    num_kv_heads: int

    @property
    def kv_width(self) -> int:
        """Outputs of the key and value matrices."""
        return self.num_kv_heads * self.hidden // self.num_heads

    def config(self) -> dict[str, Any]:
        """Return what config.json says of the bfloat16 checkpoint."""
        return {
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            "vocab_size": VOCAB_SIZE,
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "num_local_experts": self.num_experts,
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


MIXTRAL = Shape(hidden=4096, ffn=14336, num_layers=2, num_experts=8, num_heads=32, num_kv_heads=8)
SMALL = Shape(hidden=256, ffn=256, num_layers=2, num_experts=8, num_heads=2, num_kv_heads=1)
QUANTIZATION = {"quant_method": "awq", "bits": 4, "group_size": GROUP_SIZE, "zero_point": True, "version": "gemm"}

Tensors = dict[str, torch.Tensor]


def write_checkpoints(bf16: Path, awq_directory: Path, shape: Shape) -> None:
    """Write both checkpoints unless they are there; one without config.json was not finished and is written anew.

    ValueError when those that are there have another shape.
    """
    quantized = {**shape.config(), "quantization_config": QUANTIZATION}
    written = awq_directory / "config.json"
    if written.exists():
        _check_same(written, quantized)
        return
    for directory in (bf16, awq_directory):
        directory.mkdir(parents=True, exist_ok=True)
    weight_maps: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for file, tensors in _shards(shape):
        _save(bf16, file, tensors, weight_maps[0])
        _save(awq_directory, file, _quantize(tensors), weight_maps[1])
    shutil.copy(_tokenizer_file(), awq_directory / "tokenizer.model")
    _finish(bf16, shape.config(), weight_maps[0])
    _finish(awq_directory, quantized, weight_maps[1])


def _check_same(written: Path, expected: dict[str, Any]) -> None:
    found = json.loads(written.read_text())
    different = sorted(key for key in expected if found.get(key) != expected[key])
    if different:
        raise ValueError(f"{written} has another {', '.join(different)}; give another directory, or remove this one")


def _tokenizer_file() -> Path:
    import mistral_common

    return Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1"


def _shards(shape: Shape) -> Iterator[tuple[str, Tensors]]:
    """Draw the weights: matrices whose products have about the size of their input, norms around 1."""
    hidden, ffn = shape.hidden, shape.ffn
    generator = torch.Generator().manual_seed(0)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator).mul_(columns**-0.5).to(torch.bfloat16)

    def norm() -> torch.Tensor:
        return (1 + 0.1 * torch.randn(hidden, generator=generator)).to(torch.bfloat16)

    yield (
        "ends.safetensors",
        {
            "model.embed_tokens.weight": torch.randn(VOCAB_SIZE, hidden, generator=generator).to(torch.bfloat16),
            "model.norm.weight": norm(),
            "lm_head.weight": matrix(VOCAB_SIZE, hidden),
        },
    )
    for layer in range(shape.num_layers):
        prefix = f"model.layers.{layer}"
        yield (
            f"layer-{layer}.safetensors",
            {
                f"{prefix}.input_layernorm.weight": norm(),
                f"{prefix}.post_attention_layernorm.weight": norm(),
                f"{prefix}.self_attn.q_proj.weight": matrix(hidden, hidden),
                f"{prefix}.self_attn.k_proj.weight": matrix(shape.kv_width, hidden),
                f"{prefix}.self_attn.v_proj.weight": matrix(shape.kv_width, hidden),
                f"{prefix}.self_attn.o_proj.weight": matrix(hidden, hidden),
                f"{prefix}.block_sparse_moe.gate.weight": matrix(shape.num_experts, hidden),
            },
        )
        for expert in range(shape.num_experts):
            place = f"{prefix}.block_sparse_moe.experts.{expert}"
            yield (
                f"layer-{layer}-expert-{expert}.safetensors",
                {
                    f"{place}.w1.weight": matrix(ffn, hidden),
                    f"{place}.w3.weight": matrix(ffn, hidden),
                    f"{place}.w2.weight": matrix(hidden, ffn),
                },
            )


def _quantize(tensors: Tensors) -> Tensors:
    """Pack the matrices that AWQ quantizes: attention and experts."""
    packed: Tensors = {}
    for name, tensor in tensors.items():
        if "_proj." in name or ".experts." in name:
            parts = awq.pack(round_to_nearest(tensor, awq.BITS, GROUP_SIZE)).as_dict()
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
