import asyncio
import os
import signal

import grpc
import numpy as np
import pytest
import torch
from waiting import no_thread_left

from expertmesh.checkpoint.fingerprint import fingerprint
from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.errors import CheckpointError, ComputeError, ConfigError
from expertmesh.expert.config import ExpertServerConfig
from expertmesh.expert.executor import Executor
from expertmesh.expert.process import load_store, serve
from expertmesh.kernels.native.library import load_default
from expertmesh.rpc.channels import open_channel
from expertmesh.rpc.metadata import FINGERPRINT_KEY
from expertmesh.rpc.server import RpcServer
from expertmesh.v1 import expert_pb2, expert_pb2_grpc
from expertmesh.wire.calls import ExpertCall, decode_response, encode_request
from expertmesh.wire.info import decode_info


def make_call(hidden_size):
    ids = np.array([[0, 2], [2, -1], [0, -1]], np.int32)
    return ExpertCall(1, torch.randn(3, hidden_size), ids, torch.rand(3, 2).numpy())


def run_dense(checkpoint, call):
    """The chosen experts of a call by the formula, from the plain weights."""
    expected = torch.zeros_like(call.hidden)
    for row, (ids, weights) in enumerate(zip(call.topk_ids.tolist(), call.topk_weights.tolist(), strict=True)):
        for expert, weight in zip(ids, weights, strict=True):
            if expert >= 0:
                prefix = f"model.layers.{call.layer}.block_sparse_moe.experts.{expert}"
                gate, down, up = (checkpoint.dense[f"{prefix}.w{number}.weight"].float() for number in (1, 2, 3))
                inner = torch.nn.functional.silu(gate @ call.hidden[row]) * (up @ call.hidden[row])
                expected[row] += weight * (down @ inner)
    return expected


@pytest.mark.parametrize("group_size", [None, 128])
def test_serve_loads_answers_and_ends_at_sigterm(make_mixtral, group_size):
    checkpoint, progress = make_mixtral(group_size=group_size), []
    model = checkpoint.directory
    config = ExpertServerConfig(
        model=model, listen="127.0.0.1:0", experts=(0, 2), backend="reference", device="cpu", drain_seconds=5
    )

    async def ask(address):
        async with open_channel(address) as channel:
            stub = expert_pb2_grpc.ExpertServiceStub(channel)
            info = decode_info(await stub.GetInfo(expert_pb2.GetInfoRequest()))
            call = make_call(info.hidden_size)
            stream = stub.Dispatch(metadata=((FINGERPRINT_KEY, info.fingerprint),))
            await stream.write(encode_request(1, call))
            result = decode_response(await stream.read())
            os.kill(os.getpid(), signal.SIGTERM)
            return info, call, result, await stream.read() == grpc.aio.EOF

    async def main():
        address = asyncio.get_running_loop().create_future()
        served = asyncio.ensure_future(serve(config, lambda *step: progress.append(step), address.set_result))
        await asyncio.wait([served, address], return_when=asyncio.FIRST_COMPLETED)
        answers = await ask(await address)
        await asyncio.wait_for(served, 10)
        return answers

    with no_thread_left():
        info, call, result, is_ended = asyncio.run(main())
    store, loaded, _ = load_store(config, lambda done, total: None)
    assert is_ended
    assert info == loaded
    assert (info.experts, info.fingerprint) == ((0, 2), fingerprint(Checkpoint.open(model)))
    assert (info.backend, info.device, info.weight_bytes) == ("reference", "cpu", store.weight_bytes)
    assert (info.isa, info.deterministic) == ("", False)
    assert progress == [(done + 1, info.num_layers) for done in range(info.num_layers)]
    torch.testing.assert_close(result.partial, run_dense(checkpoint, call))


@pytest.mark.skipif(load_default() is None, reason="needs the C kernels")
def test_the_server_tells_the_instruction_set_it_was_given(make_mixtral):
    config = ExpertServerConfig(model=make_mixtral().directory, backend="cpu", isa="avx2")
    _, info, _ = load_store(config, lambda done, total: None)
    assert (info.backend, info.isa, info.deterministic) == ("cpu", "avx2", True)


def test_a_port_in_use_ends_the_start_and_leaves_no_thread(make_mixtral):
    model = make_mixtral().directory

    async def main():
        async with RpcServer("127.0.0.1:0") as other:
            config = ExpertServerConfig(model=model, listen=other.address, device="cpu")
            with pytest.raises(ConfigError, match=f"cannot listen on {other.address}"):
                await serve(config)

    with no_thread_left():
        asyncio.run(main())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(experts=(0, 99)), r"cannot host experts \[0, 99\]"),
        (dict(backend="magic"), "backend 'magic'.*on device 'cpu'"),
        (dict(device="abacus"), "device 'abacus'"),
        (dict(isa="sse2"), "instruction set 'sse2' is unknown"),
        (dict(backend="reference", isa="avx2"), "backend reference has no choice of instruction sets"),
    ],
)
def test_what_cannot_be_served_is_named(make_mixtral, options, words):
    with pytest.raises(ConfigError, match=words):
        load_store(ExpertServerConfig(model=make_mixtral().directory, **options), lambda done, total: None)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        load_store(ExpertServerConfig(model=tmp_path / "nothing"), lambda done, total: None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(max_batch_rows=0), "max_batch_rows 0 and max_queue_rows 16384 must be at least 1"),
        (dict(max_queue_rows=0), "max_queue_rows 0"),
        (dict(drain_seconds=-1), "drain_seconds is -1"),
    ],
)
def test_limits_that_cannot_be_right_are_named(tmp_path, options, words):
    with pytest.raises(ConfigError, match=words):
        ExpertServerConfig(model=tmp_path, **options)


def test_a_server_that_loses_its_gpu_ends_with_an_error(make_mixtral, monkeypatch):
    def fail(*_):
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(Executor, "_run_rows", fail)
    model = make_mixtral().directory
    config = ExpertServerConfig(model=model, listen="127.0.0.1:0", backend="reference", device="cpu", drain_seconds=5)

    async def ask(address):
        async with open_channel(address) as channel:
            stub = expert_pb2_grpc.ExpertServiceStub(channel)
            info = decode_info(await stub.GetInfo(expert_pb2.GetInfoRequest()))
            stream = stub.Dispatch(metadata=((FINGERPRINT_KEY, info.fingerprint),))
            await stream.write(encode_request(1, make_call(info.hidden_size)))
            return await stream.read()

    async def run():
        address = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(serve(config, on_ready=address.set_result))
        answer = await ask(await address)
        with pytest.raises(ComputeError, match="cannot be used any more by this process: .*illegal memory access"):
            await serving
        return answer

    assert asyncio.run(run()).failure.message.endswith("illegal memory access was encountered")
