import asyncio
from dataclasses import replace

import grpc
import numpy as np
import pytest
import torch
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from waiting import no_thread_left

from expertmesh.expert.process import max_call_rows
from expertmesh.expert.process import running as serve_until_asked
from expertmesh.expert.servicer import SERVICE_NAME
from expertmesh.expert.store import ExpertStore
from expertmesh.expert.stream import MAX_UNWRITTEN
from expertmesh.kernels import awq
from expertmesh.kernels.backends import create_backend
from expertmesh.kernels.quantize import round_to_nearest
from expertmesh.kernels.weights import ExpertWeights
from expertmesh.rpc.channels import open_channel
from expertmesh.v1 import expert_pb2
from expertmesh.wire.calls import ExpertCall, ExpertResult, decode_result, encode_request
from expertmesh.wire.failures import CallFailure, FailureCode
from expertmesh.wire.info import decode_info


async def entered(held):
    assert await asyncio.to_thread(held.entered.acquire, timeout=30)


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


async def forward(client, call, **options):
    response = await client.stub.Forward(expert_pb2.ForwardRequest(call=encode_request(1, call).call), **options)
    return decode_result(response.result)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dispatch_equals_forward_equals_direct(mesh, dtype):
    store, call = mesh.make_store(), mesh.make_call(5, layer=2, dtype=dtype)

    async def main():
        async with mesh.serving(store) as client:
            return await client.ask(call), await forward(client, call)

    dispatched, forwarded = asyncio.run(main())
    expected = mesh.run_direct(store, call)
    assert torch.equal(dispatched.partial, expected)
    assert torch.equal(forwarded.partial, expected)
    assert dispatched.compute_seconds > 0


def make_awq_store(backend):
    """Two of four experts of 128 features, through AWQ's own layout."""
    generator = torch.Generator().manual_seed(3)

    def make_weight(num_out, num_in):
        weight = torch.randn(num_out, num_in, generator=generator) * 0.1
        return awq.read(awq.pack(round_to_nearest(weight, bits=4, group_size=128)))

    def make_expert():
        return ExpertWeights(make_weight(256, 128), make_weight(256, 128), make_weight(128, 256))

    return ExpertStore([backend.experts([make_expert(), make_expert()])], (1, 3), 4, 128, backend.device)


@pytest.mark.parametrize("name", ["reference", "cpu", "cpu-a8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dispatch_equals_forward_equals_direct_with_awq_weights(mesh, name, dtype):
    store = make_awq_store(create_backend(name, torch.device("cpu")))
    ids = np.array([[1, 3], [3, -1], [-1, -1]], np.int32)
    call = ExpertCall(0, torch.randn(3, 128).to(dtype), ids, torch.rand(3, 2).numpy())

    async def main():
        async with mesh.serving(store) as client:
            return await client.ask(call), await forward(client, call)

    dispatched, forwarded = asyncio.run(main())
    assert torch.equal(dispatched.partial, mesh.run_direct(store, call))
    assert torch.equal(forwarded.partial, dispatched.partial)
    assert torch.equal(dispatched.partial[2], torch.zeros(128))
    assert dispatched.partial[:2].abs().sum() > 0


def test_many_calls_of_several_layers_share_a_stream(mesh):
    store = mesh.make_store()
    calls = {number: mesh.make_call(1 + number % 4, layer=number % 3, seed=number) for number in range(60)}

    async def main():
        async with mesh.serving(store) as client:
            for number, call in calls.items():
                await client.send(number, call)
            return dict([await client.receive() for _ in calls])

    outcomes = asyncio.run(main())
    assert outcomes.keys() == calls.keys()
    for number, call in calls.items():
        torch.testing.assert_close(outcomes[number].partial, mesh.run_direct(store, call), rtol=1e-5, atol=1e-6)


def test_two_streams_that_run_together_get_what_each_would_get_alone(mesh):
    store = mesh.make_store(wrap=mesh.Held)
    held = store.layers[0]
    calls = [mesh.make_call(3, seed=1), mesh.make_call(4, seed=2)]

    async def main():
        async with mesh.serving(store) as one:
            two = mesh.Client(one.channel, one.server)
            await one.send(0, mesh.make_call(1))
            await entered(held)
            for client, call in zip((one, two), calls, strict=True):
                await client.send(1, call)
            await until(lambda: one.batcher.num_waiting_rows == 7)
            for _ in range(2):
                held.door.release()
            await one.receive()
            outcomes = [(await client.receive())[1] for client in (one, two)]
            two.stream.cancel()
        return outcomes

    outcomes = asyncio.run(main())
    assert held.launches == [2, 14]
    for call, outcome in zip(calls, outcomes, strict=True):
        direct = mesh.run_direct(mesh.make_store(), call)
        torch.testing.assert_close(outcome.partial, direct, rtol=1e-5, atol=1e-6)


def test_a_bad_call_is_answered_and_the_stream_goes_on(mesh):
    good = mesh.make_call(2, experts=(0, 1, 3))
    damaged = encode_request(3, good)
    damaged.call.hidden.data = damaged.call.hidden.data[:-1]
    floats = encode_request(4, good)
    floats.call.topk_ids.dtype = floats.call.topk_weights.dtype
    bad = {
        1: encode_request(1, replace(good, layer=7)),
        2: encode_request(2, replace(good, topk_ids=np.array([[0, 2], [1, 3]], np.int32))),
        3: damaged,
        4: floats,
        5: expert_pb2.DispatchRequest(request_id=5),
        6: encode_request(6, replace(good, hidden=good.hidden.repeat(5, 1))),
    }
    store = mesh.make_store(experts=(0, 1, 3))

    async def main():
        async with mesh.serving(store, max_batch_rows=8) as client:
            for request in bad.values():
                await client.stream.write(request)
            failures = dict([await client.receive() for _ in bad])
            return failures, await client.ask(good)

    failures, result = asyncio.run(main())
    assert {number: failure.message for number, failure in failures.items()} == {
        1: "layer 7 is out of range; this model has layers 0 to 2",
        2: "experts [2] are not here; experts [0, 1, 3] are",
        3: "torch.float32 tensor of shape [2, 16] comes with 127 bytes instead of 128",
        4: "topk_ids are float32; int32 would be right",
        5: "tensor dtype 0 is unknown; one of float32, float16, bfloat16, int32 would be right",
        6: "hidden has 10 rows; at most 8 fit in one call, send several",
    }
    codes = [failures[number].code for number in sorted(failures)]
    invalid, elsewhere = FailureCode.INVALID_REQUEST, FailureCode.EXPERT_NOT_HOSTED
    assert codes == [invalid, elsewhere, invalid, invalid, invalid, invalid]
    assert torch.equal(result.partial, mesh.run_direct(store, good))


def test_a_client_that_asks_long_before_it_listens_gets_every_answer(mesh):
    num_calls = 4 * MAX_UNWRITTEN
    bad = replace(mesh.make_call(1), layer=9)

    async def main():
        async with mesh.serving(mesh.make_store()) as client:
            for number in range(num_calls):
                await client.send(number, bad)
            await client.stream.done_writing()
            return [(await client.receive())[0] for _ in range(num_calls)]

    assert asyncio.run(main()) == list(range(num_calls))


def test_a_full_queue_is_busy_and_a_late_call_is_not_run(mesh):
    store = mesh.make_store(wrap=mesh.Held)
    held = store.layers[0]

    async def main():
        async with mesh.serving(store, max_batch_rows=4, max_queue_rows=4) as client:
            await client.send(0, mesh.make_call(1))
            await entered(held)
            await client.send(1, mesh.make_call(3, timeout_seconds=0.01))
            await client.send(1, mesh.make_call(1))
            await client.send(2, mesh.make_call(2))
            early = [await client.receive() for _ in range(2)]
            await asyncio.sleep(0.02)
            held.door.release()
            return early, dict([await client.receive() for _ in range(2)])

    (twice, busy), rest = asyncio.run(main())
    assert str(twice[1]) == "INVALID_REQUEST: request_id 1 is in flight already"
    assert (busy[0], str(busy[1])) == (2, "BUSY: 3 rows wait already, 2 more would exceed the limit of 4")
    assert isinstance(rest[0], ExpertResult)
    assert rest[1].code == FailureCode.DEADLINE_EXCEEDED
    assert held.launches == [2]


def test_what_is_not_finite_fails_and_names_layer_and_experts(mesh):
    store, call = mesh.make_store(), mesh.make_call(1, layer=1)
    for weights in store.layers[1].weights:
        weights[2] = float("nan")

    async def main():
        async with mesh.serving(store) as client:
            with pytest.raises(grpc.aio.AioRpcError) as unary:
                await forward(client, call)
            return await client.ask(call), unary.value

    failure, error = asyncio.run(main())
    experts = sorted(call.topk_ids[0].tolist())
    assert str(failure) == f"COMPUTE_FAILED: layer 1, experts {experts}: values that are not finite in rows [0]"
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, str(failure))


@pytest.mark.parametrize("fingerprint", ["beef", ""])
def test_another_model_is_refused(mesh, fingerprint):
    async def main():
        async with mesh.serving(mesh.make_store()) as client:
            other = mesh.Client(client.channel, client.server, fingerprint)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await other.receive()  # writing meanwhile would race with the end of the stream
            return refused.value

    error = asyncio.run(main())
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert error.details() == f"metadata expertmesh-fingerprint is {fingerprint!r}; this server serves 'f00d'"


def test_get_info_describes_the_server(mesh):
    store = mesh.make_store(experts=(2, 5))

    async def main():
        async with mesh.serving(store) as client:
            return decode_info(await client.stub.GetInfo(expert_pb2.GetInfoRequest()))

    assert asyncio.run(main()) == mesh.make_info(store)


def test_forward_stops_waiting_at_its_deadline_and_leaves_the_queue(mesh):
    store = mesh.make_store(wrap=mesh.Held)
    held = store.layers[0]

    async def main():
        async with mesh.serving(store) as client:
            await client.send(0, mesh.make_call(1))
            await entered(held)
            with pytest.raises(grpc.aio.AioRpcError) as late:
                await forward(client, mesh.make_call(2, layer=1), timeout=0.1)
            await until(lambda: client.batcher.num_waiting_rows == 0)
            held.door.release()
            await client.receive()
        return late.value.code()

    assert asyncio.run(main()) == grpc.StatusCode.DEADLINE_EXCEEDED
    assert store.layers[1].launches == []


def test_a_client_that_leaves_takes_its_waiting_calls_along(mesh):
    store = mesh.make_store(wrap=mesh.Held)
    held = store.layers[0]

    async def main():
        async with mesh.serving(store) as client:
            gone = mesh.Client(client.channel, client.server)
            await gone.send(0, mesh.make_call(1))
            await entered(held)
            await gone.send(1, mesh.make_call(3))
            await client.send(1, mesh.make_call(2))
            await until(lambda: client.batcher.num_waiting_rows == 5)
            gone.stream.cancel()
            await until(lambda: client.batcher.num_waiting_rows == 2)
            for _ in range(2):
                held.door.release()
            return await client.receive()

    _, outcome = asyncio.run(main())
    assert isinstance(outcome, ExpertResult)
    assert held.launches == [2, 4]


def test_a_client_that_is_done_writing_gets_every_answer_and_then_the_end(mesh):
    async def main():
        async with mesh.serving(mesh.make_store()) as client:
            for number in range(5):
                await client.send(number, mesh.make_call(2))
            await client.stream.done_writing()
            numbers = {(await client.receive())[0] for _ in range(5)}
            return numbers, await client.stream.read() == grpc.aio.EOF, await client.stream.code()

    assert asyncio.run(main()) == ({0, 1, 2, 3, 4}, True, grpc.StatusCode.OK)


def test_a_call_fits_into_a_launch_the_queue_and_an_answer(mesh):
    def limit(max_batch_rows, max_queue_rows):
        return max_call_rows(mesh.make_config(max_batch_rows=max_batch_rows, max_queue_rows=max_queue_rows), 4096)

    assert limit(10**6, 10**6) == 4095, "4096 rows of 4096 float32 values would fill 64 MiB to the last byte"
    assert (limit(100, 200), limit(200, 100)) == (100, 100)


def test_nothing_is_left_after_the_end(mesh):
    async def main():
        for _ in range(2):
            async with mesh.serving(mesh.make_store()) as client:
                await client.ask(mesh.make_call())
        await asyncio.sleep(0.05)
        return asyncio.all_tasks() - {asyncio.current_task()}

    with no_thread_left("expert-"):
        assert asyncio.run(main()) == set()


def test_draining_answers_what_is_in_flight_refuses_the_new_and_ends_streams(mesh):
    store = mesh.make_store(wrap=mesh.Held)
    held = store.layers[0]
    store.layers[1].door.release()

    async def main():
        running = serve_until_asked(mesh.make_config(drain_seconds=20), store, mesh.make_info(store))
        server = await running.__aenter__()
        async with open_channel(server.address) as channel:
            busy, idle = mesh.Client(channel, server), mesh.Client(channel, server)
            await idle.ask(mesh.make_call(1, layer=1))
            watch = HealthStub(channel).Watch(HealthCheckRequest(service=SERVICE_NAME))
            before = (await watch.read()).status
            await busy.send(0, mesh.make_call(2))
            await entered(held)
            stopping = asyncio.ensure_future(running.__aexit__(None, None, None))
            after = (await watch.read()).status
            watch.cancel()
            idle_end = await idle.stream.read() == grpc.aio.EOF, await idle.stream.code()
            refused = await busy.ask(mesh.make_call(1), request_id=1)
            held.door.release()
            finished = await busy.receive()
            end = await busy.stream.read() == grpc.aio.EOF, await busy.stream.code()
            await asyncio.wait_for(stopping, 30)
        return before, after, idle_end, refused, finished, end

    before, after, idle_end, refused, finished, end = asyncio.run(main())
    assert (before, after) == (1, 2), "health is SERVING, then NOT_SERVING"
    assert idle_end == end == (True, grpc.StatusCode.OK)
    assert isinstance(refused, CallFailure)
    assert refused.code == FailureCode.DRAINING
    assert isinstance(finished[1], ExpertResult)
