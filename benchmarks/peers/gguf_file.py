"""The bfloat16 checkpoint as a Q4_0 GGUF for llama.cpp. Needs numpy and gguf, and sentencepiece for a
vocabulary; knows no torch.

Every matrix becomes Q4_0, the head included (llama.cpp's own recipe would keep that at 6 bits); norms and the gate stay
float32. Matrices are read through a memory map and quantized one at a time.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
from gguf.quants import quant_shape_to_byte_shape, quantize
from gguf.vocab import SentencePieceVocab
from numpy.typing import NDArray

ARCHITECTURE = "llama"
ATTENTION = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
EXPERTS = {"w1": "ffn_gate_exps", "w3": "ffn_up_exps", "w2": "ffn_down_exps"}

Array = NDArray[Any]


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of the file: the ``sources`` under their HF names are its slices, or the one source is all of it.

    ``turned_heads`` heads of a query or key matrix change from HF's order of rotary pairs to llama.cpp's; 0 for none.
    """

    name: str
    sources: tuple[str, ...]
    is_quantized: bool = True
    turned_heads: int = 0


class Bfloat16Files:
    """The tensors of a bfloat16 checkpoint, by their HF names."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[str, str] = json.loads((directory / "model.safetensors.index.json").read_text())["weight_map"]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one tensor."""
        return self._find(name).shape

    def read(self, name: str) -> Array:
        """Read one tensor as float32."""
        return (self._find(name).astype(np.uint32) << 16).view(np.float32)

    def _find(self, name: str) -> Array:
        """Map a tensor into memory, as the upper halves of float32 numbers."""
        path = self._directory / self._files[name]
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            entry = json.loads(file.read(length))[name]
        if entry["dtype"] != "BF16":
            raise ValueError(f"{path}: {name} is {entry['dtype']}; BF16 would be right")
        return np.memmap(path, np.uint16, "r", 8 + length + entry["data_offsets"][0], tuple(entry["shape"]))


def write_gguf(bf16: Path, path: Path, tokenizer_directory: Path | None = None) -> None:
    """Write the file unless it is there, with the vocabulary of a ``tokenizer.model`` or without any."""
    if path.exists():
        return
    config = json.loads((bf16 / "config.json").read_text())
    files = Bfloat16Files(bf16)
    tensors = list(_tensors(config))
    unfinished = path.with_suffix(".unfinished")
    writer = GGUFWriter(unfinished, ARCHITECTURE)
    _add_config(writer, config)
    _add_vocabulary(writer, config, tokenizer_directory)
    for tensor in tensors:
        _announce(writer, files, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        writer.write_tensor_data(_data(files, tensor))
    writer.close()
    unfinished.rename(path)


def _add_config(writer: GGUFWriter, config: dict[str, Any]) -> None:
    """Describe the model."""
    writer.add_file_type(LlamaFileType.MOSTLY_Q4_0)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_expert_count(config["num_local_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_vocab_size(config["vocab_size"])


def _add_vocabulary(writer: GGUFWriter, config: dict[str, Any], tokenizer_directory: Path | None) -> None:
    """Copy the SentencePiece vocabulary, which servers of text need; engines that are given token ids need none."""
    if tokenizer_directory is None:
        writer.add_tokenizer_model("no_vocab")
        return
    vocabulary = SentencePieceVocab(tokenizer_directory)
    texts, scores, kinds = zip(*vocabulary.all_tokens(), strict=True)
    writer.add_tokenizer_model(vocabulary.tokenizer_model)
    writer.add_token_list(texts)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])


def _tensors(config: dict[str, Any]) -> Iterator[GgufTensor]:
    yield GgufTensor("token_embd.weight", ("model.embed_tokens.weight",))
    yield GgufTensor("output_norm.weight", ("model.norm.weight",), is_quantized=False)
    yield GgufTensor("output.weight", ("lm_head.weight",))
    turned = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for layer in range(config["num_hidden_layers"]):
        here, there = f"blk.{layer}", f"model.layers.{layer}"
        moe = f"{there}.block_sparse_moe"
        yield GgufTensor(f"{here}.attn_norm.weight", (f"{there}.input_layernorm.weight",), is_quantized=False)
        yield GgufTensor(f"{here}.ffn_norm.weight", (f"{there}.post_attention_layernorm.weight",), is_quantized=False)
        yield GgufTensor(f"{here}.ffn_gate_inp.weight", (f"{moe}.gate.weight",), is_quantized=False)
        for source, name in ATTENTION.items():
            sources = (f"{there}.self_attn.{source}.weight",)
            yield GgufTensor(f"{here}.{name}.weight", sources, turned_heads=turned.get(source, 0))
        for source, name in EXPERTS.items():
            experts = range(config["num_local_experts"])
            yield GgufTensor(f"{here}.{name}.weight", tuple(f"{moe}.experts.{e}.{source}.weight" for e in experts))


def _announce(writer: GGUFWriter, files: Bfloat16Files, tensor: GgufTensor) -> None:
    shape = files.shape(tensor.sources[0])
    if len(tensor.sources) > 1:
        shape = (len(tensor.sources), *shape)
    if not tensor.is_quantized:
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), 4 * prod(shape))
        return
    kind = GGMLQuantizationType.Q4_0
    stored = quant_shape_to_byte_shape(shape, kind)
    writer.add_tensor_info(tensor.name, stored, np.dtype(np.uint8), prod(stored), kind)


def _data(files: Bfloat16Files, tensor: GgufTensor) -> Array:
    parts = [_part(files, tensor, source) for source in tensor.sources]
    return parts[0] if len(parts) == 1 else np.stack(parts)


def _part(files: Bfloat16Files, tensor: GgufTensor, source: str) -> Array:
    values = files.read(source)
    if tensor.turned_heads:
        values = _turn(values, tensor.turned_heads)
    return quantize(values, GGMLQuantizationType.Q4_0) if tensor.is_quantized else values


def _turn(values: Array, num_heads: int) -> Array:
    """Bring features i and i + d/2 of each head, which HF rotates together, side by side as llama.cpp wants them."""
    num_out, num_in = values.shape
    halves = values.reshape(num_heads, 2, num_out // num_heads // 2, num_in)  # [H, 2, d/2, K]
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(num_out, num_in)
