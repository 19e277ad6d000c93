"""A gRPC server with health, reflection and an orderly end. Knows no service of its own."""

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from expertmesh.errors import ConfigError
from expertmesh.rpc.access import RequireIdentity
from expertmesh.rpc.channels import KEEPALIVE_SECONDS, KEEPALIVE_TIMEOUT_SECONDS, LIMIT_OPTIONS
from expertmesh.rpc.decoded_requests import DecodedRequests
from expertmesh.rpc.running_rpcs import RunningRpcs
from expertmesh.rpc.sockets import bind, with_port
from expertmesh.rpc.tls import TlsServer

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    *LIMIT_OPTIONS,
    # Clients ping every KEEPALIVE_SECONDS, a server that allows fewer ends their connection: GOAWAY too_many_pings.
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_SECONDS * 1000 // 2),
    ("grpc.keepalive_permit_without_calls", 1),
    # A client that answers no ping, stopped or vanished, is hung up on, and what was to be written to it let go.
    ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
    # Its guess at what a connection can carry is also what it takes of messages that nobody reads yet: 7 of 8 MiB each.
    ("grpc.http2.bdp_probe", 0),
)


# What rpcs that are told to end have for it before they are cancelled.
END_SECONDS = 1.0
# Health of the process alone: SERVING as long as it answers, whatever its peers do. What liveness probes ask.
LIVENESS = "liveness"


class RpcServer:
    """Serves on ``address`` (host:port, port 0 for a free one); make it, register, start and drain it in one loop.

    ``interceptors`` see every rpc first, those of health and reflection too. Where it ``shares_port``, so may servers
    of other processes; elsewhere a second one on the same port would start and take half of the connections.
    ``more_options`` of gRPC count before ``SERVER_OPTIONS``; more than ``max_rpcs`` at once are refused with
    RESOURCE_EXHAUSTED. Callers meet ``tls``, but at ``health_address``, where there is nothing to be asked but health.
    """

    def __init__(
        self,
        address: str,
        interceptors: "Sequence[grpc.aio.ServerInterceptor[Any, Any]]" = (),
        shares_port: bool = False,
        more_options: Sequence[tuple[str, int]] = (),
        max_rpcs: int | None = None,
        tls: TlsServer | None = None,
        health_address: str | None = None,
    ) -> None:
        self._address = address
        self._shares_port = shares_port
        self._tls = tls
        self._rpcs = RunningRpcs()
        options = tuple({**dict(SERVER_OPTIONS), "grpc.so_reuseport": int(shares_port), **dict(more_options)}.items())
        admitting = (RequireIdentity(tls),) if tls is not None and tls.identities else ()
        self._server = grpc.aio.server(
            interceptors=(self._rpcs, *admitting, *interceptors, DecodedRequests()),
            options=options,
            maximum_concurrent_rpcs=max_rpcs,
        )
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # the stubs lack it
        self._health_address = health_address
        self._health_server = grpc.aio.server(options=options) if health_address else None
        self._health_port = 0
        self._services: list[str] = []
        self._port = 0
        self._is_serving = False

    @property
    def is_serving(self) -> bool:
        """Whether health checks are answered with SERVING."""
        return self._is_serving

    @property
    def port(self) -> int:
        """The port that is bound; 0 before ``start``."""
        return self._port

    @property
    def address(self) -> str:
        """Host and port that are bound, as host:port."""
        return with_port(self._address, self._port)

    @property
    def health_address(self) -> str | None:
        """Host and port at which there is only health, if it was asked for."""
        return with_port(self._health_address, self._health_port) if self._health_address else None

    def register(self, service: str, add_to_server: Callable[[Any, grpc.aio.Server], None], servicer: object) -> None:
        """Serve ``servicer`` under the full name ``service``; ``add_to_server`` is the generated function."""
        add_to_server(servicer, self._server)
        self._services.append(service)

    async def start(self, is_serving: bool = True, is_alive: bool = True) -> None:
        """Bind and serve; health says SERVING unless told otherwise. ConfigError when the address is taken.

        One that has to load first answers clients meanwhile, but ``is_alive`` only from ``set_alive`` on.
        """
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        await self._health.set(LIVENESS, _status(is_alive))
        await self.set_serving(is_serving)
        self._port = self._bind(self._server, self._address, self._tls)
        if self._health_server and self._health_address:
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._health_server)
            self._health_port = self._bind(self._health_server, self._health_address, None)
            await self._health_server.start()
        await self._server.start()

    async def set_serving(self, is_serving: bool) -> None:
        """Answer health checks of every service, and of the server as a whole, with SERVING or NOT_SERVING."""
        self._is_serving = is_serving
        for service in (health.OVERALL_HEALTH, *self._services):
            await self._health.set(service, _status(is_serving))

    async def set_alive(self) -> None:
        """Answer what probes of the process ask with SERVING from now on."""
        await self.set_health(LIVENESS, True)

    async def set_health(self, name: str, is_serving: bool) -> None:
        """Answer health checks of ``name``, which need not be a service, with SERVING or NOT_SERVING."""
        await self._health.set(name, _status(is_serving))

    async def drain(self, grace_seconds: float) -> None:
        """Say NOT_SERVING first, refuse new rpcs, give running ones ``grace_seconds``; the rest ends as UNAVAILABLE."""
        self._is_serving = False
        await self._health.enter_graceful_shutdown()
        stopping = asyncio.create_task(self._server.stop(grace_seconds + END_SECONDS))
        await asyncio.wait((stopping,), timeout=grace_seconds)
        self._rpcs.end()
        await stopping
        if self._health_server:
            await self._health_server.stop(None)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.drain(0)

    def _bind(self, server: grpc.aio.Server, address: str, tls: TlsServer | None) -> int:
        # Try the address with a plain socket first: gRPC says less about a failure, and prints it.
        bind(address, self._shares_port).close()
        try:
            if tls is None:
                return server.add_insecure_port(address)
            return server.add_secure_port(address, tls.credentials())
        except RuntimeError as error:
            raise ConfigError(f"cannot listen on {address}; is the port in use?") from error


def _status(is_serving: bool) -> "health_pb2.HealthCheckResponse.ServingStatus":
    status = health_pb2.HealthCheckResponse
    return status.SERVING if is_serving else status.NOT_SERVING
