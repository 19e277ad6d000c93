"""A gateway process from start to end: load, connect, serve, drain. Knows the order of things, not how each is done."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from prometheus_client import CollectorRegistry

from expertmesh.engine.blocks import BlockPool
from expertmesh.engine.loop import Engine
from expertmesh.engine.scheduler import Scheduler
from expertmesh.gateway.api.generation_service import GenerationServicer
from expertmesh.gateway.api.load_service import LoadServicer
from expertmesh.gateway.assembly import Core, assemble
from expertmesh.gateway.config import GatewayConfig
from expertmesh.gateway.http import metrics_route
from expertmesh.gateway.http.app import make_app
from expertmesh.gateway.http.dashboard import routes as dashboard
from expertmesh.gateway.http.http_server import HttpServer
from expertmesh.gateway.http.service import HttpConfig, Service
from expertmesh.gateway.keys import ApiKeys
from expertmesh.gateway.loaded_model import LoadedModel, Report, load_model
from expertmesh.gateway.metrics.exposition import Metrics
from expertmesh.gateway.state import LiveSnapshots
from expertmesh.mesh.pool import ReplicaPool
from expertmesh.rpc.access import RequireAuthorization
from expertmesh.rpc.allocator import give_back_freed_memory, keep_freed_memory
from expertmesh.rpc.server import RpcServer
from expertmesh.rpc.signals import wait_for_shutdown
from expertmesh.tracing.config import open_tracer
from expertmesh.tracing.tracer import NullTracer, Tracer
from expertmesh.v1 import generation_pb2, generation_pb2_grpc, load_pb2, load_pb2_grpc

_log = logging.getLogger(__name__)

GENERATION = generation_pb2.DESCRIPTOR.services_by_name["GenerationService"].full_name
LOAD = load_pb2.DESCRIPTOR.services_by_name["LoadService"].full_name


async def serve(
    config: GatewayConfig,
    report: Report = lambda done, total: None,
    on_ready: Callable[[Sequence[str]], None] = lambda addresses: None,
) -> None:
    """Load, wait for the experts, serve until SIGTERM or SIGINT, drain.

    ``report`` follows the loading from another thread; ``on_ready`` gets the addresses once every expert has a replica.
    """
    give_back_freed_memory()
    model = await asyncio.to_thread(load_model, config, report)
    keep_freed_memory()
    with open_tracer(config.trace, "expertmesh-gateway") as tracer:
        await _serve_model(config, model, tracer, on_ready)


async def _serve_model(
    config: GatewayConfig, model: LoadedModel, tracer: Tracer, on_ready: Callable[[Sequence[str]], None]
) -> None:
    async with running(config, model, tracer) as gateway:
        shutdown = asyncio.create_task(wait_for_shutdown())
        ready = asyncio.create_task(gateway.wait_ready())
        await _first_of(shutdown, ready, *gateway.tasks)
        if ready.done():
            on_ready(gateway.addresses)
        ready.cancel()
        await _first_of(shutdown, *gateway.tasks)
        _log.info("draining for at most %g s", config.drain_seconds)


async def _first_of(*tasks: asyncio.Task[Any]) -> None:
    """Wait for the first task to end, and raise its error if it ended with one."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


@dataclass(frozen=True)
class Gateway:
    """The running parts of a gateway."""

    core: Core
    server: RpcServer
    http: HttpServer | None
    metrics: Metrics
    tasks: tuple[asyncio.Task[None], ...]

    @property
    def engine(self) -> Engine:
        """What generates."""
        return self.core.engine

    @property
    def scheduler(self) -> Scheduler:
        """What waits and runs."""
        return self.core.state.scheduler

    @property
    def blocks(self) -> BlockPool:
        """Blocks of the KV cache."""
        return self.core.state.blocks

    @property
    def pool(self) -> ReplicaPool | None:
        """Replicas of the experts; None where these live in this process."""
        return self.core.state.pool

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where clients find it: host:port for gRPC, and the URL of the HTTP API."""
        return (self.server.address, *([f"http://{self.http.address}"] if self.http else []))

    async def start(self) -> None:
        """Listen; health says NOT_SERVING. ConfigError when an address is taken."""
        await self.server.start(is_serving=False)
        if self.http:
            await self.http.start()

    async def drain(self, grace_seconds: float) -> None:
        """Say NOT_SERVING, refuse new requests, give running ones ``grace_seconds`` and cancel what is left."""
        servers = (self.server, self.http) if self.http else (self.server,)
        await asyncio.gather(*(server.drain(grace_seconds) for server in servers))

    async def wait_ready(self) -> None:
        """Wait until every expert has a replica, then say SERVING."""
        if self.pool is not None:
            pool, num_experts = self.pool, self.core.info.num_experts
            _log.info("waiting for replicas of experts %s", pool.missing(num_experts))
            await pool.wait_until(lambda: not pool.missing(num_experts))
        await self.server.set_serving(True)


@asynccontextmanager
async def running(
    config: GatewayConfig,
    model: LoadedModel,
    tracer: Tracer = NullTracer(),
) -> AsyncIterator[Gateway]:
    """Serve ``model`` inside the ``async with``, which yields the gateway; then finish what is in flight and stop.

    Health says NOT_SERVING until ``wait_ready``.
    """
    core = assemble(config, model, tracer)
    snapshots = LiveSnapshots(core.state)
    loads = LoadServicer(snapshots)
    metrics = Metrics(CollectorRegistry(), snapshots, core.info, config.metrics)
    server = _make_server(config, GenerationServicer(core.generator, core.info, model.defaults), loads)
    service = Service(core.generator, core.info, model.defaults, lambda: server.is_serving)
    http = _make_http(config, service, (metrics_route.make_router(metrics), dashboard.make_router(loads.read_load)))
    async with _background(core.engine.run(), *([core.state.pool.run()] if core.state.pool else [])) as tasks:
        gateway = Gateway(core, server, http, metrics, tasks)
        try:
            await gateway.start()
            yield gateway
        finally:
            loads.end()
            await gateway.drain(config.drain_seconds)
            core.compute.close()


@asynccontextmanager
async def _background(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[tuple[asyncio.Task[None], ...]]:
    """Run coroutines beside the body and cancel them after it."""
    tasks = tuple(asyncio.create_task(coroutine) for coroutine in coroutines)
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _make_server(config: GatewayConfig, generation: GenerationServicer, loads: LoadServicer) -> RpcServer:
    server = RpcServer(config.listen, [RequireAuthorization(ApiKeys(config.api_keys).accept)])
    server.register(GENERATION, generation_pb2_grpc.add_GenerationServiceServicer_to_server, generation)
    server.register(LOAD, load_pb2_grpc.add_LoadServiceServicer_to_server, loads)
    return server


def _make_http(config: GatewayConfig, service: Service, routers: Iterable[APIRouter]) -> HttpServer | None:
    if config.http_listen is None:
        return None
    http = HttpConfig(ApiKeys(config.api_keys), config.cors_origins, config.max_body_bytes)
    return HttpServer(config.http_listen, make_app(service, http, routers))
