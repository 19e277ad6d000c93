"""Both clients ask again when that cannot double a text, and only then."""

import asyncio
import json

import grpc
import pytest
from scripted_gateway import ScriptedGateway, serving

from expertmesh.client import AsyncClient, Client, RetryPolicy
from expertmesh.errors import (
    ConfigError,
    ExpertUnavailableError,
    GatewayBusyError,
    GatewayError,
    InvalidRequestError,
    QueueFullError,
)
from expertmesh.rpc.sockets import free_port
from expertmesh.wire.failures import CallFailure, FailureCode

SOON = RetryPolicy(first_pause_seconds=0.01, max_pause_seconds=0.02)
AWAY = CallFailure(FailureCode.DRAINING, "restarting")
FULL = QueueFullError("9 wait")


async def ask_async(address: str, retries: RetryPolicy, text: str = "hello") -> list[str]:
    async with AsyncClient(address, retries=retries) as client:
        return [piece.text async for piece in client.chat(text)]


async def ask_sync(address: str, retries: RetryPolicy, text: str = "hello") -> list[str]:
    def ask() -> list[str]:
        with Client(address, retries=retries) as client:
            return [piece.text for piece in client.chat(text)]

    return await asyncio.to_thread(ask)


both = pytest.mark.parametrize("ask", [ask_async, ask_sync])


def run(ask, *script, retries=SOON):
    """Ask once; returns the texts or the error, and how often the gateway was called."""

    async def main():
        gateway = ScriptedGateway(*script)
        async with serving(gateway) as address:
            try:
                answer = await ask(address, retries)
            except (GatewayError, InvalidRequestError) as error:
                answer = type(error)
        return answer, len(gateway.requests)

    return asyncio.run(main())


@both
def test_what_fails_before_the_first_piece_is_asked_again(ask):
    assert run(ask, [AWAY], [AWAY], ["one", "two"]) == (["one", "two"], 3)
    assert run(ask, [FULL], ["one"]) == (["one"], 2)
    assert run(ask, [grpc.StatusCode.CANCELLED], ["one"]) == (["one"], 2)


@both
def test_after_a_piece_nothing_is_asked_again(ask):
    assert run(ask, ["one", AWAY], ["one"]) == (GatewayError, 1)
    assert run(ask, ["one", FULL], ["one"]) == (GatewayBusyError, 1)


@both
def test_what_another_attempt_cannot_mend_is_not_asked_again(ask):
    assert run(ask, [InvalidRequestError("top_p is 2")], ["one"]) == (InvalidRequestError, 1)
    assert run(ask, [KeyError("bug")], ["one"]) == (GatewayError, 1)
    assert run(ask, [ExpertUnavailableError("waited 120 s for expert 3")], ["one"]) == (GatewayError, 1)


@both
def test_attempts_are_counted(ask):
    assert run(ask, [AWAY], [AWAY], ["one"], retries=RetryPolicy(2, 0.01, 0.02)) == (GatewayError, 2)
    assert run(ask, [AWAY], ["one"], retries=RetryPolicy(max_attempts=1)) == (GatewayError, 1)


@both
def test_a_gateway_that_is_not_there_yet_is_waited_for(ask):
    async def main():
        address = f"127.0.0.1:{free_port()}"
        asking = asyncio.create_task(ask(address, RetryPolicy(first_pause_seconds=1, max_pause_seconds=2)))
        await asyncio.sleep(0.2)
        async with serving(ScriptedGateway(["here"]), address):
            return await asking

    assert asyncio.run(main()) == ["here"]


def test_health_checks_are_never_repeated():
    methods = json.loads(RetryPolicy().service_config())["methodConfig"]
    names = [name["service"] for method in methods for name in method["name"]]
    assert names == ["expertmesh.v1.GenerationService", "expertmesh.v1.LoadService"]


@pytest.mark.parametrize("values", [{"max_attempts": 0}, {"max_attempts": 6}, {"first_pause_seconds": 9.0}])
def test_policies_that_cannot_be_are_named(values):
    with pytest.raises(ConfigError, match=str(next(iter(values.values())))):
        RetryPolicy(**values)


@both
def test_a_request_that_grpc_does_not_keep_is_sent_once(ask):
    async def ask_long(address: str, retries: RetryPolicy) -> list[str]:
        return await ask(address, retries, "x" * 300 * 1024)

    assert run(ask_long, [AWAY], ["one"]) == (GatewayError, 1)
