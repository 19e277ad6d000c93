"""A gateway process from start to end: load, connect, serve, drain. Knows the order of things, not how each is done."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter
from prometheus_client import CollectorRegistry

from expertmesh.gateway.api.generation import GenerationServicer
from expertmesh.gateway.api.load import LoadServicer
from expertmesh.gateway.blocks import BlockPool
from expertmesh.gateway.dispatcher import RemoteExperts
from expertmesh.gateway.engine import Engine
from expertmesh.gateway.engine_stats import EngineStats
from expertmesh.gateway.generator import TextGenerator
from expertmesh.gateway.http.app import make_app
from expertmesh.gateway.http.dashboard import routes as dashboard
from expertmesh.gateway.http.server import HttpServer
from expertmesh.gateway.http.service import HttpConfig, Service
from expertmesh.gateway.info import ModelInfo
from expertmesh.gateway.keys import ApiKeys
from expertmesh.gateway.load import CountedExperts, ExpertLoadCounter
from expertmesh.gateway.loading import GatewayConfig, LoadedModel, Report, load
from expertmesh.gateway.metrics import route as metrics_route
from expertmesh.gateway.metrics.exposition import Metrics
from expertmesh.gateway.pool import ReplicaPool
from expertmesh.gateway.request import Limits
from expertmesh.gateway.runner import ModelRunner
from expertmesh.gateway.scheduler import Scheduler
from expertmesh.gateway.sizing import CachePlan, cache_budget, plan_cache
from expertmesh.gateway.state import GatewayState
from expertmesh.model.compute import Compute, ComputeThread
from expertmesh.model.experts import Experts
from expertmesh.model.kv_cache import KVCache
from expertmesh.rpc.access import RequireAuthorization
from expertmesh.rpc.memory import keep_freed_memory
from expertmesh.rpc.server import RpcServer
from expertmesh.rpc.signals import wait_for_shutdown
from expertmesh.text.constraint import GrammarCompiler
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
    model = await asyncio.to_thread(load, config, report)
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

    server: RpcServer
    http: HttpServer | None
    engine: Engine
    scheduler: Scheduler
    blocks: BlockPool
    pool: ReplicaPool | None
    metrics: Metrics
    num_experts: int
    tasks: tuple[asyncio.Task[None], ...]

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where clients find it: host:port for gRPC, and the URL of the HTTP API."""
        return (self.server.address, *([f"http://{self.http.address}"] if self.http else []))

    async def drain(self, grace_seconds: float) -> None:
        """Say NOT_SERVING, refuse new requests, give running ones ``grace_seconds`` and cancel what is left."""
        servers = (self.server, self.http) if self.http else (self.server,)
        await asyncio.gather(*(server.drain(grace_seconds) for server in servers))

    async def wait_ready(self) -> None:
        """Wait until every expert has a replica, then say SERVING."""
        if self.pool is not None:
            pool = self.pool
            _log.info("waiting for replicas of experts %s", pool.missing(self.num_experts))
            await pool.wait_until(lambda: not pool.missing(self.num_experts))
        await self.server.set_serving(True)


@asynccontextmanager
async def running(
    config: GatewayConfig,
    model: LoadedModel,
    tracer: Tracer = NullTracer(),  # noqa: B008
) -> AsyncIterator[Gateway]:
    """Serve ``model`` inside the ``async with``, which yields the gateway; then finish what is in flight and stop.

    Health says NOT_SERVING until ``wait_ready``.
    """
    plan = _plan_cache(config, model)
    load_counter = ExpertLoadCounter(model.config.num_layers, model.config.num_experts)
    stats = EngineStats()
    pool, experts = _connect(config, model, load_counter, tracer)
    blocks = BlockPool(plan.num_blocks, plan.block_size, config.reuses_prefixes)
    scheduler = Scheduler(config.scheduler, blocks, stats)
    state = GatewayState(stats, load_counter, scheduler, blocks, pool)
    compute = ComputeThread()
    runner = _make_runner(config, model, plan, experts, compute, tracer)
    engine = Engine(
        runner, scheduler, Limits(plan.max_model_len, model.config.vocab_size), model.eos_ids, stats, tracer
    )
    compiler = GrammarCompiler(model.tokenizer, model.eos_ids, model.config.vocab_size)
    generator, info = TextGenerator(model.tokenizer, engine, compiler, tracer), _describe(model, plan)
    metrics = Metrics(CollectorRegistry(), state, info, config.metrics)
    server = RpcServer(config.listen, [RequireAuthorization(ApiKeys(config.api_keys).accept)])
    servicer, loads = GenerationServicer(generator, info, model.defaults), LoadServicer(state)
    server.register(GENERATION, generation_pb2_grpc.add_GenerationServiceServicer_to_server, servicer)
    server.register(LOAD, load_pb2_grpc.add_LoadServiceServicer_to_server, loads)
    service = Service(generator, info, model.defaults, lambda: server.is_serving)
    routers = (metrics_route.make_router(metrics), dashboard.make_router(loads.load))
    http = _make_http(config, service, routers)
    async with _background(engine.run(), *([pool.run()] if pool else [])) as tasks:
        gateway = Gateway(server, http, engine, scheduler, blocks, pool, metrics, model.config.num_experts, tasks)
        try:
            await server.start(is_serving=False)
            if http:
                await http.start()
            yield gateway
        finally:
            loads.end()
            await gateway.drain(config.drain_seconds)
            compute.close()


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


def _connect(
    config: GatewayConfig, model: LoadedModel, load_counter: ExpertLoadCounter, tracer: Tracer
) -> tuple[ReplicaPool | None, Experts]:
    if model.local_experts is not None:
        return None, CountedExperts(model.local_experts, load_counter)
    assert config.discovery is not None
    pool = ReplicaPool(config.discovery, model.fingerprint)
    return pool, RemoteExperts(pool, config.dispatch, load_counter, tracer=tracer)


def _plan_cache(config: GatewayConfig, model: LoadedModel) -> CachePlan:
    budget = config.kv_cache_bytes
    if budget is None:
        budget = cache_budget(model.backend.device)
    return plan_cache(model.config, model.dtype, budget, config.max_model_len, config.scheduler.max_num_seqs)


def _make_http(config: GatewayConfig, service: Service, routers: Iterable[APIRouter]) -> HttpServer | None:
    if config.http_listen is None:
        return None
    http = HttpConfig(ApiKeys(config.api_keys), config.cors_origins, config.max_body_bytes)
    return HttpServer(config.http_listen, make_app(service, http, routers))


def _make_runner(
    config: GatewayConfig, model: LoadedModel, plan: CachePlan, experts: Experts, compute: Compute, tracer: Tracer
) -> ModelRunner:
    device = model.backend.device
    cache = KVCache(model.config, plan.num_blocks, plan.block_size, model.dtype, device)
    return ModelRunner(model.decoder, cache, experts, device, model.eos_ids, config.num_micro_batches, compute, tracer)


def _describe(model: LoadedModel, plan: CachePlan) -> ModelInfo:
    config = model.config
    return ModelInfo(
        name=model.name,
        architecture=config.architecture,
        fingerprint=model.fingerprint,
        weight_format=model.weight_format,
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        num_experts=config.num_experts,
        num_experts_per_token=config.num_experts_per_token,
        vocab_size=config.vocab_size,
        max_model_len=plan.max_model_len,
        version=version("expertmesh"),
    )
