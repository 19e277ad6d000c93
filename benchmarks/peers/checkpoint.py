"""A random Mixtral, of real width with two layers or small, in bfloat16 and as AWQ. Knows files, not engines.

The AWQ weights are the bfloat16 ones, rounded to nearest. Tensors are made and written a shard at a time.
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from expertmesh.architectures.registry import read_model, tensors_of
from expertmesh.architectures.tensor_table import TensorSpec
from expertmesh.kernels import awq
from expertmesh.kernels.formats import AWQ_BITS
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

Tensors = dict[TensorSpec, torch.Tensor]


def write_checkpoints(bf16: Path, awq_directory: Path, shape: Shape) -> None:
    """Write both checkpoints unless they are there; one without config.json was not finished and is written anew.

    ValueError when those that are there have another shape.
    """
    quantized = {**shape.config(), "quantization_config": QUANTIZATION}
    written = awq_directory / "config.json"
    if written.exists():
        check_same(written, quantized)
        return
    for directory in (bf16, awq_directory):
        directory.mkdir(parents=True, exist_ok=True)
    weight_maps: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for file, tensors in _shards(shape):
        save_shard(bf16, file, {f"{spec.name}.weight": tensor for spec, tensor in tensors.items()}, weight_maps[0])
        save_shard(awq_directory, file, _quantize(tensors), weight_maps[1])
    shutil.copy(tokenizer_file(), awq_directory / "tokenizer.model")
    finish(bf16, shape.config(), weight_maps[0])
    finish(awq_directory, quantized, weight_maps[1])


def check_same(written: Path, expected: dict[str, Any]) -> None:
    """Raise ValueError when the config.json that is ``written`` is not as expected."""
    found = json.loads(written.read_text())
    different = sorted(key for key in expected if found.get(key) != expected[key])
    if different:
        raise ValueError(f"{written} has another {', '.join(different)}; give another directory, or remove this one")


def tokenizer_file() -> Path:
    """Return the published tokenizer, which is part of mistral_common."""
    import mistral_common

    return Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1"


def _shards(shape: Shape) -> Iterator[tuple[str, Tensors]]:
    """Draw the weights: matrices whose products have about the size of their input, norms around 1."""
    generator = torch.Generator().manual_seed(0)

    def draw(spec: TensorSpec) -> torch.Tensor:
        values = torch.randn(spec.shape, generator=generator)
        if len(spec.shape) == 1:
            values = 1 + 0.1 * values
        elif spec.role != "embedding":
            values.mul_(spec.shape[1] ** -0.5)
        return values.to(torch.bfloat16)

    for file, specs in files_of(shape):
        yield file, {spec: draw(spec) for spec in specs}


def files_of(shape: Shape) -> Iterator[tuple[str, Iterable[TensorSpec]]]:
    """Say which tensors each file holds: the ends, and of each layer what is shared and every expert."""
    tensors = tensors_of(read_model(shape.config(), Path("config.json")))
    yield "ends.safetensors", tensors.ends.values()
    for layer in range(shape.num_layers):
        yield f"layer-{layer}.safetensors", tensors.layer(layer).values()
        for expert in range(shape.num_experts):
            yield f"layer-{layer}-expert-{expert}.safetensors", tensors.expert(layer, expert).values()


def _quantize(tensors: Tensors) -> dict[str, torch.Tensor]:
    """Pack the matrices that AWQ quantizes: attention and experts."""
    packed: dict[str, torch.Tensor] = {}
    for spec, tensor in tensors.items():
        if spec.is_quantizable:
            parts = awq.pack(round_to_nearest(tensor, AWQ_BITS, GROUP_SIZE)).as_dict()
            packed |= {f"{spec.name}.{part}": value for part, value in parts.items()}
        else:
            packed[f"{spec.name}.weight"] = tensor
    return packed


def save_shard(directory: Path, file: str, tensors: dict[str, torch.Tensor], weight_map: dict[str, str]) -> None:
    """Write a file and note where its tensors are."""
    save_file(tensors, directory / file, metadata={"format": "pt"})
    weight_map.update(dict.fromkeys(tensors, file))


def finish(directory: Path, config: dict[str, Any], weight_map: dict[str, str]) -> None:
    """Write the index, and config.json last: it says that all is there."""
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
