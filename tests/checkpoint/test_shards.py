import json
import shutil

import layouts
import pytest
import torch
from checkpoints import DENSE_MODEL, awq_quantization, find_spec, gptq_quantization, packed_quantization, write_mixtral
from safetensors.torch import load_file

from expertmesh.checkpoint.fingerprint import fingerprint
from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.checkpoint.shards import GATEWAY_FILE, INDEX_FILE, find_damaged, split
from expertmesh.errors import CheckpointError
from expertmesh.kernels.quantize import dequantize
from expertmesh.kernels.weights import DenseWeight, Weight

SMALL = {"num_local_experts": 3, "vocab_size": 96}
EXPERT_FILES = [f"expert-{i:02d}.safetensors" for i in range(3)]


def silent(done: int, total: int) -> None:
    pass


def values(weight: Weight) -> torch.Tensor:
    return weight.data if isinstance(weight, DenseWeight) else dequantize(weight)


@pytest.fixture
def made(tmp_path):
    (tmp_path / "model").mkdir()
    return write_mixtral(tmp_path / "model", quantization=awq_quantization(32), **SMALL)


@pytest.fixture
def out(made, tmp_path):
    split(Checkpoint.open(made.directory), tmp_path / "out", silent)
    return tmp_path / "out"


def test_everyone_gets_a_file_and_every_tensor_is_in_one(made, out):
    assert sorted(path.name for path in out.glob("*.safetensors")) == [*EXPERT_FILES, GATEWAY_FILE]
    original = load_file(made.directory / "model.safetensors")
    stored = {name: tensor for path in out.glob("*.safetensors") for name, tensor in load_file(path).items()}
    assert set(stored) == set(original)
    assert all(stored[name].equal(tensor) for name, tensor in original.items())
    assert all(".experts.1." in name for name in load_file(out / EXPERT_FILES[1]))
    assert {path.name for path in out.iterdir()} >= {"config.json", "tokenizer.model", INDEX_FILE}
    assert not list(out.glob(".*"))


def test_it_is_the_same_model(made, out):
    original, checkpoint = Checkpoint.open(made.directory), Checkpoint.open(out)
    assert fingerprint(checkpoint) == fingerprint(original)
    assert checkpoint.weight_format == original.weight_format
    again = out.parent / "again"
    split(checkpoint, again, silent)
    assert fingerprint(Checkpoint.open(again)) == fingerprint(original)


def test_a_server_needs_only_its_own_file(out):
    mark = fingerprint(Checkpoint.open(out))
    for name in (GATEWAY_FILE, EXPERT_FILES[0], EXPERT_FILES[2]):
        (out / name).unlink()
    checkpoint = Checkpoint.open(out)
    assert fingerprint(checkpoint) == mark
    checkpoint.expert(1, 1)
    with pytest.raises(CheckpointError, match=r"expert-02.safetensors is missing; it holds \S+experts.2.w1.qweight"):
        checkpoint.expert(1, 2)
    with pytest.raises(CheckpointError, match=r"gateway.safetensors is missing; it holds model.norm.weight"):
        checkpoint.tensor(checkpoint.tensors.ends["final_norm"])


@pytest.mark.parametrize(
    ("overrides", "layout"),
    [
        ({}, None),
        ({}, layouts.fused_hf),
        ({}, layouts.newer_hf),
        ({}, layouts.mistral),
        ({}, layouts.mistral_stacked),
        ({"tie_word_embeddings": True}, None),
        ({"quantization": gptq_quantization(3, 32, desc_act=True, biases=lambda n: torch.arange(float(n)))}, None),
        ({"quantization": packed_quantization(4, 32, symmetric=False, is_ordered=True)}, None),
        ({"quantization": packed_quantization(8, -1)}, layouts.newer_hf),
        (DENSE_MODEL, None),
    ],
)
def test_every_layout_is_split_into_the_same_weights(tmp_path, overrides, layout):
    (tmp_path / "model").mkdir()
    made = write_mixtral(tmp_path / "model", **{**SMALL, **overrides})
    if layout:
        layout(made)
    original = Checkpoint.open(made.directory)
    split(original, tmp_path / "out", silent)
    checkpoint = Checkpoint.open(tmp_path / "out")
    for expert in range(made.config["num_local_experts"]):
        one, other = (c.expert(1, expert) for c in (original, checkpoint))
        for weight, again in zip(vars(one).values(), vars(other).values(), strict=True):
            assert values(weight).equal(values(again))
            assert (weight.bias is None) == (again.bias is None)
    for name in ("q", "k", "o"):
        spec = find_spec(checkpoint, f"model.layers.0.self_attn.{name}_proj")
        assert values(original.weight(spec)).equal(values(checkpoint.weight(spec)))


def test_an_interrupted_run_goes_on_where_it_stopped(made, out, monkeypatch):
    written = {path.name: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}
    (out / INDEX_FILE).unlink()
    (out / EXPERT_FILES[1]).unlink()
    (out / ".expert-01.safetensors.partial").write_bytes(b"half")
    split(Checkpoint.open(made.directory), out, silent)
    kept = {path.name for path in out.glob("*.safetensors") if path.stat().st_mtime_ns == written[path.name]}
    assert kept == {GATEWAY_FILE, EXPERT_FILES[0], EXPERT_FILES[2]}
    assert not find_damaged(Checkpoint.open(out))
    assert not list(out.glob(".*"))


def test_another_model_is_not_mixed_in(out, tmp_path):
    (tmp_path / "other").mkdir()
    other = write_mixtral(tmp_path / "other", seed=1, quantization=awq_quantization(32), **SMALL)
    with pytest.raises(CheckpointError, match=r"gateway.safetensors belongs to model \w+, not to \w+; choose an empty"):
        split(Checkpoint.open(other.directory), out, silent)


def test_a_damaged_source_leaves_no_half_file(made, tmp_path):
    file = made.directory / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.block_sparse_moe.experts.2.w2.scales"][0, 0] = torch.nan
    from safetensors.torch import save_file

    save_file(tensors, file)
    with pytest.raises(CheckpointError, match="scales holds NaN or Inf"):
        split(Checkpoint.open(made.directory), tmp_path / "out", silent)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [*EXPERT_FILES[:2], GATEWAY_FILE]


def test_a_full_disk_is_found_before_writing(made, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(CheckpointError, match=r"has room for 0.0 GB; 0.0 GB would be written"):
        split(Checkpoint.open(made.directory), tmp_path / "out", silent)


def test_checksums_find_a_flipped_byte(made, out):
    checkpoint = Checkpoint.open(out)
    assert find_damaged(checkpoint) == []
    raw = bytearray((out / EXPERT_FILES[1]).read_bytes())
    raw[-1] ^= 1
    (out / EXPERT_FILES[1]).write_bytes(raw)
    assert find_damaged(checkpoint) == [EXPERT_FILES[1]]
    with pytest.raises(CheckpointError, match="its index holds no checksums"):
        find_damaged(Checkpoint.open(made.directory))


def test_an_index_without_a_fingerprint_is_refused(out):
    index = json.loads((out / INDEX_FILE).read_text())
    del index["metadata"]["expertmesh"]["fingerprint"]
    (out / INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="the index of a split checkpoint names no fingerprint"):
        fingerprint(Checkpoint.open(out))


def test_all_that_makes_ids_of_text_goes_along(make_mixtral, tmp_path):
    source = make_mixtral(**SMALL).directory
    texts = {
        "tokenizer.json",
        "tekken.json",
        "tokenizer_config.json",
        "added_tokens.json",
        "special_tokens_map.json",
        "chat_template.jinja",
    }
    for name in texts:
        (source / name).write_text("{}")
    split(Checkpoint.open(source), tmp_path / "out", silent)
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"tokenizer.model", *texts}
