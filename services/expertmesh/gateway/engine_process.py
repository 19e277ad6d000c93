"""The engine process from start to end: load, connect to the experts, compute for those at the door.

Knows the order of things, not how each is done; serves no client. Steps are computed in a thread that blocks; this one
has the event loop, which hears API processes and follows the replicas.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from expertmesh.errors import ExpertmeshError
from expertmesh.gateway.assembly import Core, assemble
from expertmesh.gateway.background import background, first_of, thread
from expertmesh.gateway.config import TRACED_AS, GatewayConfig
from expertmesh.gateway.grammars.cache import Grammars
from expertmesh.gateway.grammars.compiler import BoundedCompiler
from expertmesh.gateway.link.host import EngineHost
from expertmesh.gateway.loaded_model import LoadedModel, load_model
from expertmesh.gateway.state import take_snapshot
from expertmesh.mesh.pool import ReplicaPool
from expertmesh.rpc.allocator import give_back_freed_memory, keep_freed_memory
from expertmesh.rpc.signals import wait_for_shutdown
from expertmesh.tracing.config import open_tracer
from expertmesh.tracing.tracer import NullTracer, Tracer


@dataclass(frozen=True)
class RunningEngine:
    """An engine at work, and what ends only when something is wrong: its thread, and the task of the replicas."""

    core: Core
    tasks: tuple[asyncio.Future[None], ...]


@asynccontextmanager
async def computing(
    host: EngineHost, config: GatewayConfig, model: LoadedModel, tracer: Tracer = NullTracer()
) -> AsyncIterator[RunningEngine]:
    """Compute inside the ``async with`` for those who come to ``host``; ConfigError when the KV cache does not fit."""
    core = await asyncio.to_thread(assemble, config, model, tracer)
    pool = core.state.pool
    async with (
        thread(core.engine.run, core.inbox.close, "engine") as computing,
        background(*([pool.run()] if pool else [])) as tasks,
        _compiling(core.compiler) as grammars,
    ):
        state = core.state
        host.open(core.info, core.door, core.inbox, grammars, partial(take_snapshot, state), state.count_refused)
        async with background(_announce(host, core)):
            try:
                yield RunningEngine(core, (computing, *tasks))
            finally:
                # First of all: that its replicas go is then no failure of the requests.
                core.inbox.close()


@asynccontextmanager
async def _compiling(compiler: BoundedCompiler) -> AsyncIterator[Grammars]:
    """Have grammars compiled inside the ``async with``."""
    grammars = Grammars(compiler.compile)
    try:
        yield grammars
    finally:
        await grammars.close()
        await compiler.close()


async def _announce(host: EngineHost, core: Core) -> None:
    """Say which experts have no replica, whenever that changes."""
    if (pool := core.state.pool) is None:
        host.missing(())
        return
    missing = partial(pool.missing, core.info.num_experts)
    while True:
        told = missing()
        host.missing(told)
        await _wait_other(pool, missing, told)


async def _wait_other(pool: ReplicaPool, missing: Callable[[], list[int]], told: list[int]) -> None:
    await pool.wait_until(lambda: missing() != told)


async def run_engine(config: GatewayConfig, socket: str) -> bool:
    """Load, and compute for those who come to ``socket`` until SIGTERM; returns whether the model could be served."""
    host, loop = EngineHost(), asyncio.get_running_loop()

    def report(done: int, total: int) -> None:
        loop.call_soon_threadsafe(host.loading, done, total)

    give_back_freed_memory()
    async with host.listening(socket):
        try:
            model = await asyncio.to_thread(load_model, config, report)
            keep_freed_memory()
            with open_tracer(config.trace, TRACED_AS) as tracer:
                async with computing(host, config, model, tracer) as engine:
                    await first_of(asyncio.create_task(wait_for_shutdown()), *engine.tasks)
        except ExpertmeshError as error:
            host.broken(error)
            await host.wait_told()
            return False
    return True
