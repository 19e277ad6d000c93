"""Experts that are read ahead are those that are read one by one, and the thread that reads them leaves nothing."""

import os
import re
import shutil
import threading
from itertools import product

import pytest
import torch
from checkpoints import awq_quantization, gptq_quantization, packed_quantization
from gguf_files import write_gguf
from number_formats import compressed_integers, four_bit, fp8, llm_int8

from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.errors import CheckpointError
from expertmesh.kernels.weights import ExpertWeights

CPU = torch.device("cpu")
LAYOUTS = {
    "plain": {"dtype": torch.bfloat16},
    "awq": {"quantization": awq_quantization(64)},
    "gptq": {"quantization": gptq_quantization(4, 64, sym=False, biases=torch.rand)},
    "act-order": {"quantization": gptq_quantization(3, 64, desc_act=True)},
    "pack-quantized": {"quantization": packed_quantization(8, 64, symmetric=False)},
    "fp8": {"quantization": fp8()},
    "int-quantized": {"quantization": compressed_integers()},
    "llm-int8": {"quantization": llm_int8()},
    "nf4": {"quantization": four_bit("nf4")},
    "rounded": {"dtype": torch.float16},
}
WANTED = [(1, 5), (0, 2), (1, 5), (0, 0)]


def tensors_of(weights: ExpertWeights) -> list[torch.Tensor]:
    matrices = (weights.w_gate, weights.w_up, weights.w_down)
    return [value for matrix in matrices for value in vars(matrix).values() if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("is_staged", [False, True])
def test_experts_read_ahead_are_those_read_one_by_one(make_mixtral, name, is_staged):
    round_to_bits = 4 if name == "rounded" else None
    check_reading_ahead(Checkpoint.open(make_mixtral(**LAYOUTS[name]).directory, round_to_bits), is_staged)


@pytest.mark.parametrize("kind", ["BF16", "Q4_K", "Q6_K"])
@pytest.mark.parametrize("is_staged", [False, True])
def test_experts_of_gguf_read_ahead_are_those_read_one_by_one(tmp_path, kind, is_staged):
    check_reading_ahead(Checkpoint.open(write_gguf(tmp_path, kind, num_local_experts=8).directory), is_staged)


def check_reading_ahead(checkpoint: Checkpoint, is_staged: bool) -> None:
    # All are kept: none may lie in memory that is used again.
    found = list(checkpoint.on(CPU, is_staged).experts(WANTED))
    assert len(found) == len(WANTED)
    for weights, (layer, expert) in zip(found, WANTED, strict=True):
        expected = tensors_of(checkpoint.expert(layer, expert))
        assert all(torch.equal(*pair) for pair in zip(tensors_of(weights), expected, strict=True))
    assert not readers()


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


def test_no_reader_is_left_when_not_all_are_taken(make_mixtral):
    checkpoint = Checkpoint.open(make_mixtral(group_size=32).directory)
    experts = checkpoint.experts(product(range(2), range(8)))
    next(experts)
    assert len(readers()) == 1
    experts.close()
    assert not readers()


@pytest.mark.parametrize("is_staged", [False, True])
def test_what_the_reader_cannot_read_is_named_to_the_caller(make_mixtral, tmp_path, is_staged):
    shutil.copytree(make_mixtral(group_size=32, shards=3).directory, tmp_path, dirs_exist_ok=True)
    checkpoint = Checkpoint.open(tmp_path)
    path = checkpoint.files.entry("model.layers.1.block_sparse_moe.experts.5.w2.qweight").file
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(CheckpointError, match=rf"{re.escape(str(path))}: tensor model.*{re.escape('cannot be read')}"):
        list(checkpoint.on(CPU, is_staged).experts(product(range(2), range(8))))
    assert not readers()
