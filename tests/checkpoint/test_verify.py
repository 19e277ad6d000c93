import hashlib
import shutil

import pytest
from checkpoints import awq_quantization, write_mixtral

from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.checkpoint.shards import GATEWAY_FILE, expert_file, split
from expertmesh.checkpoint.verify import verify_experts, verify_gateway
from expertmesh.errors import CheckpointError
from expertmesh.gateway.config import GatewayConfig
from expertmesh.gateway.loaded_model import load_model

SMALL = {"num_local_experts": 3}


@pytest.fixture(params=[None, 32])
def made(request, tmp_path):
    quantization = awq_quantization(request.param) if request.param else None
    (tmp_path / "model").mkdir()
    return write_mixtral(tmp_path / "model", quantization=quantization, **SMALL)


def flip_last(file):
    """Turn over a bit of the last byte of a file."""
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def test_a_split_checkpoint_has_the_digests_of_its_source(made, tmp_path):
    whole = Checkpoint.open(made.directory)
    split(whole, tmp_path / "out", lambda done, total: None)
    parts = Checkpoint.open(tmp_path / "out")
    assert verify_gateway(parts) == verify_gateway(whole)
    digests = verify_experts(whole, range(3))
    assert verify_experts(parts, range(3)) == digests
    assert verify_experts(whole, [2, 0]) == (digests[2], digests[0])
    assert len({*digests, verify_gateway(whole)}) == 4


def test_another_byte_makes_another_digest(made, tmp_path):
    other = shutil.copytree(made.directory, tmp_path / "other")
    flip_last(other / "model.safetensors")
    before, after = Checkpoint.open(made.directory), Checkpoint.open(other)
    assert (verify_experts(before, range(3)), verify_gateway(before)) != (
        verify_experts(after, range(3)),
        verify_gateway(after),
    )


def test_a_file_that_is_not_what_was_written_is_named_with_both_sums(made, tmp_path):
    out = tmp_path / "out"
    split(Checkpoint.open(made.directory), out, lambda done, total: None)
    file = out / expert_file(1)
    right = hashlib.sha256(file.read_bytes()).hexdigest()
    flip_last(file)
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    checkpoint = Checkpoint.open(out)
    with pytest.raises(CheckpointError, match=rf"expert-01.safetensors is damaged: .* {found}; {right} would be right"):
        verify_experts(checkpoint, [0, 1])
    verify_experts(checkpoint, [0, 2])
    verify_gateway(checkpoint)


def test_a_gateway_looks_at_its_own_file(made, tmp_path):
    out = tmp_path / "out"
    split(Checkpoint.open(made.directory), out, lambda done, total: None)
    flip_last(out / GATEWAY_FILE)
    config = GatewayConfig(out, backend="reference", device="cpu", verifies_weights=True)
    with pytest.raises(CheckpointError, match="gateway.safetensors is damaged"):
        load_model(config, lambda done, total: None)
