"""Small random models in GGUF, written by the gguf package under its own names, and what they stand for."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoints import (
    CONFIG,
    DENSE_MODEL,
    TOKENIZER_FILE,
    RandomCheckpoint,
    Tensors,
    own_name,
    random_weights,
)
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter, get_tensor_name_map
from gguf.quants import dequantize, quantize
from gguf_blocks import random_blocks
from sentencepiece.sentencepiece_model_pb2 import ModelProto

# Blocks of 256 inputs must fit.
SMALL = {"hidden_size": 256, "intermediate_size": 256, "num_local_experts": 4, "vocab_size": 512}
# Types that the package itself can quantize to; of the others, any bytes are values.
QUANTIZED = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
# What experts are called that lie by themselves.
SINGLE = {"w1": "ffn_gate", "w2": "ffn_down", "w3": "ffn_up"}

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Stored:
    """A tensor of a file, of the type ``kind``."""

    name: str
    kind: str
    data: Array


def write_gguf(
    directory: Path,
    kind: str | Callable[[str], str] = "Q8_0",
    is_stacked: bool = True,
    num_files: int = 1,
    add_keys: Callable[[GGUFWriter], None] = lambda writer: None,
    **overrides: Any,
) -> RandomCheckpoint:
    """Write a random Mixtral, or a dense Mistral with ``**DENSE_MODEL``; ``directory`` of the result is its first file.

    ``kind`` is the type of matrices, or tells it by their names; norms and gates are F32. Experts of a layer are
    stacked, or each by itself as in older files. ``add_keys`` writes further metadata.
    """
    config = {**CONFIG, **SMALL, **overrides}
    dense = random_weights(config, torch.float32, seed=0)
    stored = list(_store(dense, config, kind if callable(kind) else lambda _: kind, is_stacked))
    most = -(-len(stored) // num_files) if num_files > 1 else 0
    writer = GGUFWriter(directory / "model.gguf", "llama", split_max_tensors=most)
    _add_config(writer, config)
    add_tokens(writer, TOKENIZER_FILE, config["vocab_size"])
    add_keys(writer)
    for tensor in stored:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=GGMLQuantizationType[tensor.kind])
    finish(writer)
    return RandomCheckpoint(min(directory.glob("*.gguf")), config, dense)


def finish(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokens(
    writer: GGUFWriter, tokenizer: Path, vocab_size: int | None = None, more: Sequence[tuple[str, int]] = ()
) -> None:
    """Write the pieces of a SentencePiece model as llama.cpp's converter does, cut to ``vocab_size``.

    ``more`` are added tokens: texts and types.
    """
    model = ModelProto.FromString(tokenizer.read_bytes())
    del model.pieces[vocab_size or len(model.pieces) :]
    for text, kind in more:
        model.pieces.add(piece=text, score=-1000.0, type=kind)
    pieces = model.pieces
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([piece.piece for piece in pieces])
    writer.add_token_scores([piece.score for piece in pieces])
    writer.add_token_types([piece.type for piece in pieces])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def _add_config(writer: GGUFWriter, config: dict[str, Any]) -> None:
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(head)
    if "head_dim" in config:
        writer.add_key_length(head)
        writer.add_value_length(head)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if _has_experts(config):
        writer.add_expert_count(config["num_local_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])


def _store(dense: Tensors, config: dict[str, Any], kind_of: Callable[[str], str], is_stacked: bool) -> Iterator[Stored]:
    """Yield all tensors, and replace the plain values of ``dense`` by what the file holds of them."""
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    heads = {".q_proj": config["num_attention_heads"], ".k_proj": config["num_key_value_heads"]}
    stacks: defaultdict[tuple[str, str], list[Array]] = defaultdict(list)
    for number, (name, values) in enumerate(dense.items()):
        if ".block_sparse_moe.gate." in name and not _has_experts(config):
            continue
        kind = "F32" if values.dim() == 1 or ".gate." in name else kind_of(name)
        data = _quantize(values, kind, number)
        dense[name] = torch.from_numpy(dequantize(data, GGMLQuantizationType[kind]))
        num_heads = next((count for part, count in heads.items() if part in name), 0)
        data = _turn(data, num_heads) if num_heads else data
        layer, expert, role = _split(name)
        if expert is None or not _has_experts(config):
            renamed = own_name(name, DENSE_MODEL) if expert is not None else name
            yield Stored(f"{names.get_name(renamed.removesuffix('.weight'))}.weight", kind, data)
        elif is_stacked:
            stacks[f"{names.get_name(f'model.layers.{layer}.block_sparse_moe.experts.{role}')}.weight", kind].append(
                data
            )
        else:
            yield Stored(f"blk.{layer}.{SINGLE[role]}.{expert}.weight", kind, data)
    for (name, kind), parts in stacks.items():
        yield Stored(name, kind, np.stack(parts))


def _quantize(values: torch.Tensor, kind: str, seed: int) -> Array:
    if kind in QUANTIZED:
        return quantize(values.numpy(), GGMLQuantizationType[kind])
    return random_blocks(kind, *values.shape, seed=seed)


def _turn(data: Array, num_heads: int) -> Array:
    """Bring outputs i and i + d/2 of each head, which HF rotates together, side by side, as llama.cpp has them."""
    return data.reshape(num_heads, 2, len(data) // num_heads // 2, -1).swapaxes(1, 2).reshape(data.shape)


def _split(name: str) -> tuple[str, str | None, str]:
    """Return layer, expert and last word of a name."""
    found = re.search(r"layers\.(\d+).*experts\.(\d+)\.(\w+)\.", name)
    return (found[1], found[2], found[3]) if found else ("", None, "")


def _has_experts(config: dict[str, Any]) -> bool:
    return config["architectures"] != DENSE_MODEL["architectures"]
