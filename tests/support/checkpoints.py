"""Small random checkpoints in every layout, and the plain weights that they stand for."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import mistral_common
import torch
from safetensors.torch import save_file
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from expertmesh.architectures.tensor_table import TensorSpec
from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.kernels import awq, gptq, pack_quantized
from expertmesh.kernels.quantize import dequantize, round_to_nearest
from expertmesh.kernels.weights import QuantizedWeight

TOKENIZER_FILE = Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1"
# <unk>, <s> and </s>
NUM_SPECIAL = 3

CONFIG: dict[str, Any] = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "max_position_embeddings": 512,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# What of it is different in other families.
DENSE_MODEL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "num_local_experts": 1}
QWEN3_MOE: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "head_dim": 64,
    "moe_intermediate_size": 128,
    "num_local_experts": 12,
    "num_experts_per_tok": 4,
    "norm_topk_prob": True,
    "rms_norm_eps": 1e-6,
}
OLMOE: dict[str, Any] = {
    "architectures": ["OlmoeForCausalLM"],
    "model_type": "olmoe",
    "num_local_experts": 12,
    "num_experts_per_tok": 4,
    "norm_topk_prob": False,
    "clip_qkv": 1.0,
}
# How each family names what these names of Mixtral's hold.
NEWER_NAMES = {
    "block_sparse_moe.gate.": "mlp.gate.",
    "block_sparse_moe.experts.": "mlp.experts.",
    ".w1.": ".gate_proj.",
    ".w2.": ".down_proj.",
    ".w3.": ".up_proj.",
}
NAMES: dict[str, dict[str, str]] = {
    "mixtral": {},
    "mistral": {"block_sparse_moe.experts.0.": "mlp.", **NEWER_NAMES},
    "qwen3_moe": NEWER_NAMES,
    "olmoe": NEWER_NAMES,
}

Tensors = dict[str, torch.Tensor]
# What the names of matrices hold that quantizers take.
TAKEN = ("_proj.", ".experts.")
T = TypeVar("T")


@dataclass(frozen=True)
class RandomCheckpoint:
    """A checkpoint on disk and the plain weights that it stands for (dequantized, HF's names for Mixtral)."""

    directory: Path
    config: dict[str, Any]
    dense: Tensors = field(repr=False)


@dataclass(frozen=True)
class Quantization:
    """How matrices are stored as codes: what the configuration says in ``file``, and how codes are made and packed.

    Matrices whose names hold a key of ``others`` are stored otherwise; names of all hold one of ``taken``.
    """

    config: dict[str, Any]
    quantize: Callable[[torch.Tensor], QuantizedWeight]
    pack: Callable[[QuantizedWeight], Tensors]
    file: str = "config.json"
    others: Mapping[str, "Quantization"] = field(default_factory=dict)
    taken: tuple[str, ...] = TAKEN

    def encode(self, matrix: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        """Return the tensors of a matrix by their names behind its own, and the values that they stand for."""
        weight = self.quantize(matrix)
        return self.pack(weight), dequantize(weight)

    def of(self, name: str) -> "Quantization":
        """Return how the matrix ``name`` is stored."""
        return next((other for part, other in self.others.items() if part in name), self)


def awq_quantization(group_size: int, zero_point: bool = True, file: str = "config.json") -> Quantization:
    """AWQ as its tools write it; without zero points, ``qzeros`` is left out."""
    keys = {"bits": 4, "group_size": group_size} if file == "config.json" else {"w_bit": 4, "q_group_size": group_size}
    return Quantization(
        {"quant_method": "awq", "zero_point": zero_point, "version": "GEMM", **keys},
        lambda matrix: round_to_nearest(matrix, 4, _groups_of(matrix, group_size), is_symmetric=not zero_point),
        lambda weight: replace(awq.pack(weight), **({} if zero_point else {"qzeros": None})).as_dict(),
        file,
    )


def gptq_quantization(
    bits: int = 4,
    group_size: int = 128,
    desc_act: bool = False,
    sym: bool = True,
    is_v2: bool = False,
    file: str = "quantize_config.json",
    scales: torch.dtype = torch.float16,
    biases: Callable[[int], torch.Tensor] | None = torch.zeros,
) -> Quantization:
    """GPTQ as its tools write it; ``biases`` makes what is stored as the bias of N outputs."""

    def quantize(matrix: torch.Tensor) -> QuantizedWeight:
        size = _groups_of(matrix, group_size)
        weight = round_to_nearest(matrix, bits, size, is_symmetric=sym)
        # Format v1 cannot store a zero point of 0; scales of another dtype are rounded to it before they mean anything.
        zeros = weight.zeros if is_v2 else weight.zeros.clamp(min=1)
        perm = torch.randperm(matrix.shape[1], generator=torch.Generator().manual_seed(matrix.shape[0]))
        bias = None if biases is None else biases(matrix.shape[0]).half()
        return replace(weight, scales=weight.scales.to(scales), zeros=zeros, perm=perm if desc_act else None, bias=bias)

    config = {"quant_method": "gptq", "bits": bits, "group_size": group_size, "desc_act": desc_act, "sym": sym}
    return Quantization(
        config | ({"checkpoint_format": "gptq_v2"} if is_v2 else {}),
        quantize,
        lambda weight: gptq.pack(weight, is_v2).as_dict(),
        file,
    )


def auto_round_quantization(packing: str, how: Quantization, **keys: Any) -> Quantization:
    """AutoRound's own format, whose codes are packed as ``how`` packs them; ``keys`` are more of its configuration."""
    taken = {key: how.config[key] for key in ("bits", "group_size")}
    sym = how.config.get("sym", not how.config.get("zero_point"))
    config = {"quant_method": "auto-round", "packing_format": packing, "data_type": "int", "sym": sym, **taken, **keys}
    return replace(how, config=config, file="config.json")


def packed_quantization(
    bits: int = 4,
    group_size: int = 128,
    symmetric: bool = True,
    is_ordered: bool = False,
    scales: torch.dtype = torch.float16,
) -> Quantization:
    """The format pack-quantized as llm-compressor writes it."""

    def quantize(matrix: torch.Tensor) -> QuantizedWeight:
        weight = round_to_nearest(matrix, bits, _groups_of(matrix, group_size), is_symmetric=symmetric)
        perm = torch.randperm(matrix.shape[1], generator=torch.Generator().manual_seed(matrix.shape[0]))
        return replace(weight, scales=weight.scales.to(scales), perm=perm if is_ordered else None)

    groups = {"strategy": "group", "group_size": group_size} if group_size > 0 else {"strategy": "channel"}
    weights = {
        "num_bits": bits,
        "type": "int",
        "symmetric": symmetric,
        "dynamic": False,
        "actorder": "group" if is_ordered else None,
        "block_structure": None,
        "observer": "minmax",
        "observer_kwargs": {},
        **groups,
    }
    scheme = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return Quantization(
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"group_0": scheme},
            "ignore": ["lm_head", "re:.*gate$"],
            "kv_cache_scheme": None,
            "quantization_status": "compressed",
            "sparsity_config": {},
            "transform_config": {},
        },
        quantize,
        lambda weight: pack_quantized.pack(weight, symmetric).as_dict(),
    )


def several_groups(first: Quantization, others: Mapping[str, Quantization]) -> Quantization:
    """The format pack-quantized with a further group of its configuration for the matrices that ``others`` name."""
    schemes = (how.config["config_groups"]["group_0"] for how in (first, *others.values()))
    groups = {f"group_{number}": scheme for number, scheme in enumerate(schemes)}
    return replace(first, config={**first.config, "config_groups": groups}, others=others)


def write_mixtral(
    directory: Path,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    quantization: Quantization | None = None,
    shards: int = 1,
    **overrides: Any,
) -> RandomCheckpoint:
    """Write a random Mixtral under HF's names, or with ``**DENSE_MODEL`` and its like another family."""
    config = {**CONFIG, "torch_dtype": str(dtype).removeprefix("torch."), **overrides}
    dense = random_weights(config, dtype, seed)
    stored = dict(dense)
    if quantization is not None:
        _quantize(stored, dense, quantization)
        if quantization.file == "config.json":
            config["quantization_config"] = quantization.config
        else:
            (directory / quantization.file).write_text(json.dumps(quantization.config))
    (directory / "config.json").write_text(json.dumps(config))
    save(directory, own_names(stored, config), shards)
    write_tokenizer(directory, config["vocab_size"])
    return RandomCheckpoint(directory, config, dense)


def write_tokenizer(directory: Path, vocab_size: int) -> None:
    """Write the published tokenizer, cut to the first ``vocab_size`` of its pieces."""
    proto = ModelProto.FromString(TOKENIZER_FILE.read_bytes())
    del proto.pieces[vocab_size:]
    if vocab_size < NUM_SPECIAL + 256:
        # There is a piece for every byte or for none.
        proto.trainer_spec.byte_fallback = False
        for piece in proto.pieces[NUM_SPECIAL:]:
            piece.type = ModelProto.SentencePiece.NORMAL
    (directory / "tokenizer.model").write_bytes(proto.SerializeToString())


def random_weights(config: dict[str, Any], dtype: torch.dtype, seed: int) -> Tensors:
    """Draw all weights of a model; the only FFN of a dense one is expert 0."""
    generator = torch.Generator().manual_seed(seed)
    hidden, inner = config["hidden_size"], config.get("moe_intermediate_size") or config["intermediate_size"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    num_q, num_kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    qk_norms = {"qwen3_moe": {"q": head, "k": head}, "olmoe": {"q": num_q, "k": num_kv}}.get(config["model_type"], {})

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return (torch.randn(rows, columns, generator=generator) * columns**-0.5).to(dtype)

    def norm(width: int = hidden) -> torch.Tensor:
        return (1 + 0.1 * torch.randn(width, generator=generator)).to(dtype)

    weights = {"model.embed_tokens.weight": torch.randn(config["vocab_size"], hidden, generator=generator).to(dtype)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        weights[f"{prefix}.input_layernorm.weight"] = norm()
        weights[f"{prefix}.post_attention_layernorm.weight"] = norm()
        for name, rows, columns in (
            ("q", num_q, hidden),
            ("k", num_kv, hidden),
            ("v", num_kv, hidden),
            ("o", hidden, num_q),
        ):
            weights[f"{prefix}.self_attn.{name}_proj.weight"] = matrix(rows, columns)
        for name, width in qk_norms.items():
            weights[f"{prefix}.self_attn.{name}_norm.weight"] = norm(width)
        weights[f"{prefix}.block_sparse_moe.gate.weight"] = matrix(config["num_local_experts"], hidden)
        for expert in range(config["num_local_experts"]):
            for name, rows, columns in (("w1", inner, hidden), ("w3", inner, hidden), ("w2", hidden, inner)):
                weights[f"{prefix}.block_sparse_moe.experts.{expert}.{name}.weight"] = matrix(rows, columns)
    weights["model.norm.weight"] = norm()
    if not config["tie_word_embeddings"]:
        weights["lm_head.weight"] = matrix(config["vocab_size"], hidden)
    return weights


def save(directory: Path, tensors: Tensors, shards: int = 1) -> None:
    """Write tensors as one safetensors file, or as shards with an index."""
    if shards == 1:
        save_file(tensors, directory / "model.safetensors")
        return
    names = list(tensors)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = names[shard::shards]
        save_file({name: tensors[name] for name in part}, directory / file)
        weight_map.update(dict.fromkeys(part, file))
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def find_spec(checkpoint: Checkpoint, name: str) -> TensorSpec:
    """Find the tensor that HF calls ``name``, without ".weight"."""
    (found,) = (spec for spec in checkpoint.tensors if spec.name == name)
    return found


def own_names(tensors: Mapping[str, T], config: Mapping[str, Any]) -> dict[str, T]:
    """Rename what is called as in Mixtral to what the family of ``config`` calls it; a dense model has no gate."""
    is_dense = config["model_type"] == DENSE_MODEL["model_type"]
    return {own_name(name, config): tensor for name, tensor in tensors.items() if not (is_dense and ".gate." in name)}


def own_name(name: str, config: Mapping[str, Any]) -> str:
    """Return what the family of ``config`` calls a tensor of Mixtral; an expert of a dense model is its FFN."""
    for theirs, ours in NAMES[config["model_type"]].items():
        name = name.replace(theirs, ours)
    return name


def _quantize(stored: Tensors, dense: Tensors, quantization: Quantization) -> None:
    """Replace the matrices that quantizers take by packed ones, and their plain values by what the packed ones mean."""
    for name in [name for name in stored if any(part in name for part in quantization.taken)]:
        tensors, dense[name] = quantization.of(name).encode(stored.pop(name))
        prefix = name.removesuffix(".weight")
        stored.update({f"{prefix}.{part}": tensor for part, tensor in tensors.items()})


def _groups_of(matrix: torch.Tensor, group_size: int) -> int:
    return group_size if group_size > 0 else matrix.shape[1]
