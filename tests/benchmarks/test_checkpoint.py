import pytest
import torch
from checkpoints import find_spec
from peers.checkpoint import GROUP_SIZE, SMALL, Shape, write_checkpoints

from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.kernels.backends import create_backend
from expertmesh.kernels.quantize import dequantize, round_to_nearest
from expertmesh.model.decoder import Decoder
from expertmesh.model.experts import LocalExperts

TINY = Shape(hidden=128, ffn=256, num_layers=1, num_experts=2, num_heads=2, num_kv_heads=1)
MATRICES = (
    "model.layers.0.self_attn.k_proj",
    "model.layers.0.self_attn.o_proj",
    "model.layers.0.block_sparse_moe.experts.1.w1",
    "model.layers.0.block_sparse_moe.experts.1.w2",
)


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoints")
    write_checkpoints(directory / "bf16", directory / "awq", TINY)
    return directory / "bf16", directory / "awq"


@pytest.mark.parametrize("which", [0, 1], ids=["bf16", "awq"])
def test_the_whole_model_is_loaded(directories, which):
    checkpoint = Checkpoint.open(directories[which])
    config = checkpoint.model
    backend = create_backend("reference", torch.device("cpu"))
    Decoder.load(config, checkpoint, backend, torch.float32)
    LocalExperts.load(config, checkpoint, backend)


@pytest.mark.parametrize("name", MATRICES)
def test_awq_is_the_plain_checkpoint_rounded(directories, name):
    plain, packed = (Checkpoint.open(directory) for directory in directories)
    spec = find_spec(plain, name)
    expected = round_to_nearest(plain.weight(spec).data, 4, GROUP_SIZE)
    assert torch.equal(dequantize(packed.weight(spec)), dequantize(expected))


def test_llama_gets_the_plain_checkpoint(directories, tmp_path):
    gguf = pytest.importorskip("gguf")
    from peers.gguf_file import write_gguf

    write_gguf(directories[0], tmp_path / "q4_0.gguf")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "q4_0.gguf").tensors}
    checkpoint = Checkpoint.open(directories[0])
    spec = find_spec(checkpoint, "model.layers.0.block_sparse_moe.gate")
    gate = torch.from_numpy(tensors["blk.0.ffn_gate_inp.weight"].data.copy())
    assert torch.equal(gate, checkpoint.tensor(spec).float())
    assert tensors["blk.0.ffn_gate_exps.weight"].shape.tolist() == [128, 256, 2]


def test_what_is_there_is_kept(directories):
    file = directories[1] / "layer-0.safetensors"
    before = file.stat()
    write_checkpoints(*directories, TINY)
    assert file.stat() == before


def test_another_shape_in_the_same_place_is_refused(directories):
    with pytest.raises(ValueError, match="another hidden_size, num_hidden_layers, num_local_experts; give another"):
        write_checkpoints(*directories, SMALL)
