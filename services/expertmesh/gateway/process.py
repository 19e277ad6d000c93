"""A gateway from start to end: start an engine, serve clients, drain. Knows the order of things, not how each is done.

This process serves clients and has no torch; the engine is one of its own, ``engine_process.py``.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from fastapi import APIRouter

from expertmesh.gateway.access import Access
from expertmesh.gateway.api.generation_service import GenerationServicer
from expertmesh.gateway.api.load_service import LoadServicer
from expertmesh.gateway.background import background, first_of
from expertmesh.gateway.callers import Callers
from expertmesh.gateway.config import TRACED_AS, GatewayConfig
from expertmesh.gateway.generation_config import read_defaults
from expertmesh.gateway.generator import TextGenerator
from expertmesh.gateway.http import metrics_route
from expertmesh.gateway.http.app import make_app
from expertmesh.gateway.http.connections import ConnectionLimits
from expertmesh.gateway.http.forwarded import Forwarded
from expertmesh.gateway.http.http_server import HttpServer
from expertmesh.gateway.http.pages.chat import routes as chat
from expertmesh.gateway.http.pages.dashboard import routes as dashboard
from expertmesh.gateway.http.request_ids import RequestIds as HttpRequestIds
from expertmesh.gateway.http.service import HttpConfig, Service
from expertmesh.gateway.key_ring import KeyRing
from expertmesh.gateway.link.client import EngineClient, Report
from expertmesh.gateway.metrics.exposition import Metrics
from expertmesh.gateway.process_keeper import END_SECONDS, ProcessCommand, ProcessKeeper
from expertmesh.gateway.refusals import Refusals
from expertmesh.gateway.response_size import ResponseLimit
from expertmesh.gateway.scopes import scope_of_rpc
from expertmesh.gateway.served_names import served_names
from expertmesh.gateway.text_files import TextFiles, read_text_files
from expertmesh.rpc.access import RequireAuthorization
from expertmesh.rpc.request_ids import RequestIds
from expertmesh.rpc.server import RpcServer
from expertmesh.rpc.signals import on_hangup, wait_for_shutdown
from expertmesh.rpc.socket_directory import socket_directory
from expertmesh.rpc.sockets import allow_sockets
from expertmesh.rpc.tls import TlsServer, open_client, open_server
from expertmesh.tracing.config import open_tracer
from expertmesh.tracing.tracer import NullTracer, Tracer
from expertmesh.v1 import generation_pb2, generation_pb2_grpc, load_pb2, load_pb2_grpc

_log = logging.getLogger(__name__)

GENERATION = generation_pb2.DESCRIPTOR.services_by_name["GenerationService"].full_name
# Until a connection over gRPC has said what it is.
HANDSHAKE_SECONDS = 10
# Health as those ask who send a gateway its share of requests: SERVING until it drains, even while an expert has no
# replica. Requests wait for one, and every other gateway is in the same position.
READINESS = "readiness"
# What answers have to end with an error of their own before they are cut off.
LAST_WORDS_SECONDS = 1.0
LOAD = load_pb2.DESCRIPTOR.services_by_name["LoadService"].full_name


class Commands(Protocol):
    """How the other processes of a gateway are started, those that share the engine at ``socket``."""

    def engine(self, config: GatewayConfig, socket: str) -> ProcessCommand:
        """Say how an engine process is started."""
        ...

    def api(self, config: GatewayConfig, socket: str) -> ProcessCommand:
        """Say how a further process for clients is started, on the addresses that ``config`` names."""
        ...


async def serve(
    config: GatewayConfig,
    commands: Commands,
    report: Report = lambda done, total: None,
    on_ready: Callable[[Sequence[str]], None] = lambda addresses: None,
) -> None:
    """Start an engine and further API processes, serve until SIGTERM or SIGINT, drain.

    ``report`` follows the loading; ``on_ready`` gets the addresses once every expert has a replica. CheckpointError or
    ConfigError comes before anything is started when tokenizer, chat template, keys or a file of TLS cannot be used.
    """
    _check_tls(config)
    text, ring = read_text_files(config), KeyRing(config.api_keys, config.api_key_file)
    _log.info("chat template: %s", text.reason)
    client = EngineClient(report)
    with (
        socket_directory() as directory,
        open_tracer(config.trace, TRACED_AS) as tracer,
        on_hangup(ring.reload if config.api_key_file else None),
    ):
        socket = str(directory / "engine")
        engine = ProcessKeeper("engine process", commands.engine(config, socket), client.check_loaded)
        async with (
            background(client.run(socket), engine.run()) as tasks,
            serving(config, text, ring, client, tracer) as gateway,
            background(*(process.run() for process in _more_processes(config, gateway, commands, socket))) as more,
        ):
            await _serve_until_shutdown(gateway, (*tasks, *more), on_ready)
            _log.info("draining for at most %g s", config.drain_seconds)


def _check_tls(config: GatewayConfig) -> None:
    """Read the files that clients meet, and those that the engine calls expert servers with once it has loaded."""
    open_server(config.tls)
    open_client(config.experts_tls)


def _more_processes(
    config: GatewayConfig, gateway: "Gateway", commands: Commands, socket: str
) -> Iterator[ProcessKeeper]:
    """Further processes for clients, on the ports of this one."""
    http = gateway.http.address if gateway.http else None
    server = gateway.server
    own = replace(config, listen=server.address, http_listen=http, health_listen=server.health_address)
    command = commands.api(own, socket)
    for number in range(1, config.num_api_processes):
        yield ProcessKeeper(f"API process {number}", command, end_seconds=config.drain_seconds + END_SECONDS)


async def serve_beside(config: GatewayConfig, socket: str) -> None:
    """Be a further API process: serve on the ports of the first until SIGTERM, drain."""
    text, ring = read_text_files(config), KeyRing(config.api_keys, config.api_key_file)
    client = EngineClient()
    with open_tracer(config.trace, TRACED_AS) as tracer, on_hangup(ring.reload if config.api_key_file else None):
        async with background(client.run(socket)) as tasks, serving(config, text, ring, client, tracer):
            await first_of(asyncio.create_task(wait_for_shutdown()), *tasks)


async def _serve_until_shutdown(
    gateway: "Gateway", tasks: Sequence[asyncio.Task[None]], on_ready: Callable[[Sequence[str]], None]
) -> None:
    shutdown = asyncio.create_task(wait_for_shutdown())
    ready = asyncio.create_task(gateway.client.wait_serving())
    try:
        await first_of(shutdown, ready, *tasks)
        if ready.done():
            on_ready(gateway.addresses)
        await first_of(shutdown, *tasks)
    finally:
        ready.cancel()
        shutdown.cancel()


@dataclass(frozen=True)
class Gateway:
    """What serves clients: the servers, and the client of the engine behind them."""

    client: EngineClient
    server: RpcServer
    http: HttpServer | None
    metrics: Metrics

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where clients find it: host:port for gRPC, and the URL of the HTTP API."""
        return (self.server.address, *([self.http.url] if self.http else []))

    async def start(self) -> None:
        """Listen; health says NOT_SERVING. ConfigError when an address is taken."""
        await self.server.set_health(READINESS, False)
        await self.server.start(is_serving=False, is_alive=False)
        if self.http:
            await self.http.start()

    async def drain(self, grace_seconds: float) -> None:
        """Say NOT_SERVING, refuse new requests, give running ones ``grace_seconds``, end what is left with an error."""
        servers = (self.server, self.http) if self.http else (self.server,)
        ending = asyncio.get_running_loop().call_later(grace_seconds, self.client.shut_down)
        try:
            await asyncio.gather(*(server.drain(grace_seconds + LAST_WORDS_SECONDS) for server in servers))
        finally:
            ending.cancel()


@asynccontextmanager
async def serving(
    config: GatewayConfig, text: TextFiles, ring: KeyRing, client: EngineClient, tracer: Tracer = NullTracer()
) -> AsyncIterator[Gateway]:
    """Serve clients inside the ``async with``, those with a key of ``ring``, through an engine, whenever that comes.

    Then drain.
    """
    access = Access(ring, Refusals(client.count_refused))
    limit = ResponseLimit(lambda: client.model, config.max_response_bytes)
    generator = TextGenerator(text.tokenizer, text.template, client, tracer, limit)
    defaults = read_defaults(config.model)
    loads = LoadServicer(client)
    tls = open_server(config.tls)
    metrics = Metrics(client, lambda: client.model, config.metrics)
    callers = Callers(access.identify, config.shares_prefixes)
    generation = GenerationServicer(generator, lambda: client.model, defaults, callers, config.proxies)
    server = _make_server(config, access, generation, loads, tls)
    names = served_names(config.model, config.served_model_names)
    service = Service(
        generator,
        lambda: client.model,
        defaults,
        lambda: server.is_serving,
        names,
        callers,
        lambda: client.missing,
    )
    pages = (chat.make_router(), dashboard.make_router(loads.read_load))
    http = _make_http(config, access, service, (metrics_route.make_router(metrics), *pages), tls)
    gateway = Gateway(client, server, http, metrics)
    async with background(_tell_health(client, server), ring.run()):
        try:
            allow_sockets(2 * config.max_connections)
            await gateway.start()
            yield gateway
        finally:
            loads.end()
            await gateway.drain(config.drain_seconds)


async def _tell_health(client: EngineClient, server: RpcServer) -> None:
    """Answer health checks with what the engine is able to do."""
    await client.wait_loaded()
    await server.set_alive()
    while True:
        is_serving, is_ready = client.is_serving, client.is_ready
        await server.set_serving(is_serving)
        await server.set_health(READINESS, is_ready)
        await _wait_other(client, is_serving, is_ready)


async def _wait_other(client: EngineClient, is_serving: bool, is_ready: bool) -> None:
    await client.wait_until(lambda: (client.is_serving, client.is_ready) != (is_serving, is_ready))


def _make_server(
    config: GatewayConfig, access: Access, generation: GenerationServicer, loads: LoadServicer, tls: TlsServer | None
) -> RpcServer:
    def check(method: str, authorization: str) -> None:
        access.check(authorization, scope_of_rpc(method), method)

    interceptors = (RequestIds(), RequireAuthorization(check, access.note, config.proxies))
    more, shares_port = _rpc_bounds(config), config.num_api_processes > 1
    server = RpcServer(config.listen, interceptors, shares_port, more, tls=tls, health_address=config.health_listen)
    server.register(GENERATION, generation_pb2_grpc.add_GenerationServiceServicer_to_server, generation)
    server.register(LOAD, load_pb2_grpc.add_LoadServiceServicer_to_server, loads)
    return server


def _rpc_bounds(config: GatewayConfig) -> tuple[tuple[str, int], ...]:
    """Bounds of what strangers may do, as gRPC has them."""
    return (
        ("grpc.max_receive_message_length", config.max_body_bytes),
        ("grpc.max_allowed_incoming_connections", config.max_connections),
        ("grpc.max_concurrent_streams", config.max_connections),
        ("grpc.max_connection_idle_ms", int(config.keep_alive_seconds * 1000)),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
    )


def _make_http(
    config: GatewayConfig, access: Access, service: Service, routers: Iterable[APIRouter], tls: TlsServer | None
) -> HttpServer | None:
    if config.http_listen is None:
        return None
    http = HttpConfig(access, config.cors_origins, config.max_body_bytes, config.max_connections)
    limits = ConnectionLimits(config.max_connections, config.keep_alive_seconds)
    app = Forwarded(HttpRequestIds(make_app(service, http, routers)), config.proxies)
    context = tls.http_context() if tls else None
    return HttpServer(config.http_listen, app, config.num_api_processes > 1, limits, context)
