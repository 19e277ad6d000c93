"""The engine's end of the socket with a door behind it; the test does what the engine's thread would do."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
from following import until

from expertmesh.engine.blocks import BlockPool
from expertmesh.engine.door import Door
from expertmesh.engine.inbox import Inbox
from expertmesh.engine.messages import Cancel, Failed, Submit, TokenDelta, Tokens
from expertmesh.engine.request import Limits, Request
from expertmesh.engine.scheduler import Scheduler
from expertmesh.engine.scheduler_config import SchedulerConfig
from expertmesh.engine.stats import INTERNAL, EngineStats
from expertmesh.errors import InvalidRequestError
from expertmesh.gateway.grammars.cache import Grammars
from expertmesh.gateway.grammars.compiler import Compiled
from expertmesh.gateway.link.connection import Connection, connect
from expertmesh.gateway.link.host import EngineHost
from expertmesh.gateway.link.messages import AskSnapshot, FromEngine, Loaded, SnapshotTaken
from expertmesh.gateway.state import GatewayState, take_snapshot
from expertmesh.mesh.expert_load import ExpertLoadCounter
from expertmesh.model.choice import Choice
from expertmesh.model.sampling import SamplingParams
from expertmesh.rpc.socket_directory import socket_directory
from expertmesh.wire.model_info import ModelInfo

MODEL = ModelInfo("small", "mixtral", "f00d", "none", 2, 8, 8, 2, 32, 64, "0", "", True)
TOKEN = TokenDelta(Choice(7), finish_reason=None)


async def refuse_grammar(kind: str, source: str) -> Compiled:
    if kind == "broken":
        raise ZeroDivisionError
    raise InvalidRequestError("no grammar", "grammar")


class House:
    """A host and all that is behind it but an engine."""

    def __init__(self, socket: str) -> None:
        self.stats, self.blocks, self.inbox = EngineStats(), BlockPool(8, 16), Inbox()
        self.scheduler = Scheduler(SchedulerConfig().fitted_to("cpu"), self.blocks, self.stats)
        self.door = Door(self.scheduler, Limits(64, 32), self.stats)
        self.host = EngineHost()
        self._socket = socket

    def open(self) -> None:
        state = GatewayState(self.stats, ExpertLoadCounter(2, 8), self.scheduler, self.blocks, pool=None)
        grammars = Grammars(refuse_grammar)
        self.host.open(MODEL, self.door, self.inbox, grammars, lambda: take_snapshot(state), state.count_refused)

    async def connect(self) -> "Connection[FromEngine]":
        return await connect(self._socket, msgspec.msgpack.Decoder(FromEngine))

    async def put(self, connection: "Connection[FromEngine]", request_id: int, **more: object) -> None:
        """Put a request and wait until it is behind the door."""
        num_waiting = self.scheduler.num_waiting
        connection.send(Submit(request_id, Request((1, 2), SamplingParams(seed=1), **more)))
        await until(lambda: self.work() and self.scheduler.num_waiting > num_waiting)

    def work(self) -> bool:
        """Do what lies in the inbox, in the place of the engine."""
        return self.inbox.do_all(waits=False)


def run(use: Callable[[House], Awaitable[None]]) -> None:
    async def main() -> None:
        async with house() as one:
            await use(one)

    asyncio.run(main())


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        one = House(str(stack.enter_context(socket_directory()) / "engine"))
        await stack.enter_async_context(one.host.listening(one._socket))
        one.open()
        yield one


async def listen(connection: "Connection[FromEngine]", kind: type) -> object:
    """Return the next message of a kind."""
    async with asyncio.timeout(20):
        async for message in connection.messages():
            if isinstance(message, kind):
                return message
    raise AssertionError("the connection ended")


def test_requests_wait_in_the_inbox_and_tokens_come_back_from_another_thread():
    async def use(one: House) -> None:
        connection = await one.connect()
        assert await listen(connection, Loaded) == Loaded(MODEL)
        await one.put(connection, 3)

        def step() -> None:
            [chunk] = one.scheduler.schedule()
            one.door.hand_out(chunk.sequence, TOKEN)
            one.door.flush()

        await asyncio.to_thread(step)
        assert await listen(connection, Tokens) == Tokens([(3, TOKEN)])
        await connection.close()

    run(use)


def test_whose_process_is_gone_leaves_between_steps_and_is_told_nothing():
    async def use(one: House) -> None:
        gone, stays = await one.connect(), await one.connect()
        await one.put(gone, 0)
        await one.put(stays, 0)
        chunks = one.scheduler.schedule()
        await gone.close()
        await until(lambda: len(one.host._processes) == 1)
        assert one.scheduler.num_running == 2  # the step goes on
        for chunk in chunks:
            one.door.hand_out(chunk.sequence, TOKEN)
        one.door.flush()
        assert await listen(stays, Tokens) == Tokens([(0, TOKEN)])
        one.work()
        assert one.scheduler.num_running == 1
        await stays.close()

    run(use)


def test_what_is_wrong_with_a_request_is_told_to_its_process():
    async def use(one: House) -> None:
        connection = await one.connect()
        connection.send(Submit(5, Request((), SamplingParams(seed=1))))
        connection.send(Submit(6, Request((1,), SamplingParams(seed=1), grammar=("regex", "a"))))
        working = asyncio.create_task(until(lambda: one.work() and sum(one.stats.num_rejected.values()) == 2))
        heard = [await listen(connection, Failed) for _ in range(2)]
        assert {message.id: message.error.param for message in heard} == {5: "prompt", 6: "grammar"}
        await working
        await connection.close()

    run(use)


def test_a_constraint_that_cannot_be_made_is_told_whatever_the_reason():
    async def use(one: House) -> None:
        connection = await one.connect()
        connection.send(Submit(5, Request((1,), SamplingParams(seed=1), grammar=("broken", "a"))))
        working = asyncio.create_task(until(lambda: one.work() and one.stats.num_rejected[INTERNAL]))
        message = await listen(connection, Failed)
        assert isinstance(message, Failed)
        assert (message.id, message.error.kind) == (5, "EngineError")
        await working
        await connection.close()

    run(use)


def test_a_snapshot_knows_what_was_said_before_and_does_not_wait_for_a_long_step():
    async def use(one: House) -> None:
        connection = await one.connect()
        await one.put(connection, 0)
        connection.send(Cancel(0, "cancelled"))
        connection.send(AskSnapshot())
        working = asyncio.create_task(until(lambda: one.work() and not one.scheduler.has_work))
        taken = await listen(connection, SnapshotTaken)
        assert (taken.snapshot.engine.num_waiting, taken.snapshot.engine.num_finished["cancelled"]) == (0, 1)
        await working
        await one.put(connection, 1)
        connection.send(Cancel(1, "cancelled"))
        connection.send(AskSnapshot())  # in a step that lasts
        taken = await listen(connection, SnapshotTaken)
        assert taken.snapshot.engine.num_waiting == 1
        await connection.close()

    run(use)
