"""What is read of GGUF files beside values, which tests/integration/test_gguf.py compares, and what is refused."""

import numpy as np
import pytest
import torch
from checkpoints import find_spec
from gguf import GGUFWriter
from gguf_files import write_gguf

from expertmesh.checkpoint.fingerprint import fingerprint
from expertmesh.checkpoint.quantizer import Recipe, quantize
from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.checkpoint.rotary import halves_from_pairs
from expertmesh.checkpoint.shards import split
from expertmesh.checkpoint.summary import summarize
from expertmesh.errors import CheckpointError
from expertmesh.kernels.weights import DenseWeight, QuantizedWeight

TINY = {"num_hidden_layers": 1, "num_local_experts": 2, "vocab_size": 16}
LAYER = "model.layers.0"


def mixed(name: str) -> str:
    return "Q6_K" if ".w2" in name else "F16" if "_proj" in name else "Q4_K"


def test_what_is_said_of_types(tmp_path):
    assert Checkpoint.open(write_gguf(tmp_path, mixed, **TINY).directory).weight_format == "gguf Q4_K, Q6_K"
    (tmp_path / "plain").mkdir()
    plain = write_gguf(tmp_path / "plain", "F16", **TINY).directory
    assert Checkpoint.open(plain).weight_format == "float16"
    assert Checkpoint.open(plain, round_to_bits=4).weight_format == "int4 of float16"


def test_codes_stay_codes_and_plain_values_plain(tmp_path):
    checkpoint = Checkpoint.open(write_gguf(tmp_path, mixed, **TINY).directory)
    weights = checkpoint.expert(0, 1)
    assert isinstance(weights.w_gate, QuantizedWeight)
    assert (weights.w_gate.bits, weights.w_down.bits) == (4, 6)
    query = checkpoint.weight(find_spec(checkpoint, f"{LAYER}.self_attn.q_proj"))
    assert isinstance(query, DenseWeight)
    assert query.data.dtype == torch.float16
    assert checkpoint.tensor(find_spec(checkpoint, "model.embed_tokens")).dtype == torch.float32


def test_bytes_are_those_in_memory(tmp_path):
    summary = summarize(Checkpoint.open(write_gguf(tmp_path, mixed, **TINY).directory))
    assert summary.expert_memory_bytes == ((256 * 256 * (2 * 48 + 84)) // 64,) * 2  # 6 bits twice, and 10.5


def test_models_of_other_values_have_other_fingerprints(tmp_path):
    found = set()
    for seed, kind in enumerate(["Q4_0", "Q4_1", "F16"]):
        (tmp_path / kind).mkdir()
        found.add(fingerprint(Checkpoint.open(write_gguf(tmp_path / kind, kind, **TINY).directory)))
        assert len(found) == seed + 1


@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
def test_biases_of_queries_turn_with_their_rows(tmp_path, kind):
    bias = np.arange(256, dtype=np.float32)
    made = write_gguf(tmp_path, kind, add_keys=lambda writer: writer.add_tensor("blk.0.attn_q.bias", bias), **TINY)
    checkpoint = Checkpoint.open(made.directory)
    weight = checkpoint.weight(find_spec(checkpoint, f"{LAYER}.self_attn.q_proj"))
    assert weight.bias.equal(halves_from_pairs(torch.from_numpy(bias)[:, None], 64)[:, 0])


def test_types_that_are_not_read_are_named(tmp_path):
    made = write_gguf(tmp_path, lambda name: "IQ4_XS" if "o_proj" in name else "Q8_0", **TINY)
    message = "blk.0.attn_output.weight is IQ4_XS; F32, F16, BF16, Q4_0, .*, Q5_K or Q6_K would be right"
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(made.directory)


def test_scales_that_are_no_numbers_are_named(tmp_path):
    made = write_gguf(tmp_path, "Q8_0", **TINY)
    content = bytearray(made.directory.read_bytes())
    checkpoint = Checkpoint.open(made.directory)
    spec = find_spec(checkpoint, f"{LAYER}.self_attn.o_proj")
    block = checkpoint.files.read("blk.0.attn_output.weight").numpy().tobytes()[:34]
    at = content.index(block)
    content[at : at + 2] = b"\x00\x7e"
    made.directory.write_bytes(content)
    with pytest.raises(CheckpointError, match="the scales of blk.0.attn_output.weight hold NaN or Inf"):
        Checkpoint.open(made.directory).weight(spec)


def test_factors_of_rotary_embedding_are_refused(tmp_path):
    def add(writer: GGUFWriter) -> None:
        writer.add_tensor("rope_freqs.weight", np.ones(32, dtype=np.float32))

    made = write_gguf(tmp_path, add_keys=add, **TINY)
    with pytest.raises(CheckpointError, match="rope_freqs.weight stretches rotary embedding by features"):
        Checkpoint.open(made.directory)


def test_it_is_written_in_no_other_form(tmp_path):
    made = write_gguf(tmp_path, "F16", **TINY)
    checkpoint, out = Checkpoint.open(made.directory), tmp_path / "out"
    message = f"{made.directory} is written in no other form; a checkpoint of safetensors would be right"
    with pytest.raises(CheckpointError, match=message):
        split(checkpoint, out, lambda done, total: None)
    with pytest.raises(CheckpointError, match=message):
        quantize(checkpoint, out, Recipe("awq", 4, 32), lambda done, total: None)
    assert not out.exists()
