import asyncio
from contextlib import asynccontextmanager

import grpc
import pytest

from expertmesh.rpc import unary_turns
from expertmesh.rpc.unary_turns import UnaryTurns

METHOD = "/turns.Service/Ask"


@asynccontextmanager
async def serving(answer, num_at_once=2):
    """A server whose one method is answered by ``answer``, and a channel to it."""
    server = grpc.aio.server(interceptors=(UnaryTurns(METHOD, num_at_once),))
    handlers = {"Ask": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("turns.Service", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(0)


def test_all_are_answered_as_unary_rpcs_and_few_at_once():
    running, most = 0, 0

    async def answer(request, context):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        return request[::-1]

    async def main():
        async with serving(answer) as channel:
            ask = channel.unary_unary(METHOD)
            return await asyncio.gather(*(ask(b"%03d" % number) for number in range(20)))

    assert asyncio.run(main()) == [(b"%03d" % number)[::-1] for number in range(20)]
    assert most == 2


def test_a_refusal_is_told_and_its_turn_is_the_next_ones():
    async def answer(request, context):
        await context.abort(grpc.StatusCode.NOT_FOUND, request.decode())

    async def main():
        async with serving(answer, num_at_once=1) as channel:
            for word in (b"one", b"two"):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await channel.unary_unary(METHOD)(word)
                yield refused.value.code(), refused.value.details()

    async def collect():
        return [end async for end in main()]

    assert asyncio.run(collect()) == [(grpc.StatusCode.NOT_FOUND, word) for word in ("one", "two")]


def test_who_sends_no_request_loses_its_turn(monkeypatch):
    monkeypatch.setattr(unary_turns, "READ_SECONDS", 0.05)

    async def answer(request, context):
        return request

    async def main():
        async with serving(answer, num_at_once=1) as channel:
            silent = channel.stream_stream(METHOD)()
            assert await silent.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            ended = channel.stream_stream(METHOD)()
            await ended.done_writing()
            assert await ended.code() is grpc.StatusCode.INVALID_ARGUMENT
            return await channel.unary_unary(METHOD)(b"next")

    assert asyncio.run(main()) == b"next"
