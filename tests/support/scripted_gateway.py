"""A gateway without a model: it does with each call what its script says next."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

from expertmesh.rpc.server import RpcServer
from expertmesh.rpc.status import report_errors
from expertmesh.rpc.tls import open_server
from expertmesh.settings.tls import ServerTls
from expertmesh.v1 import generation_pb2 as pb
from expertmesh.v1 import generation_pb2_grpc

FOREVER = object()


class ScriptedGateway(generation_pb2_grpc.GenerationServiceServicer):
    """Answers call i with the steps of ``script[i]``.

    A text is streamed, an error raised, a status ends the call, FOREVER never ends.
    """

    def __init__(self, *script: Sequence[Any]) -> None:
        self.script = list(script)
        self.requests: list[pb.ChatRequest] = []
        self.metadata: dict[str, str] = {}
        self.left = asyncio.Event()

    async def Chat(self, request: pb.ChatRequest, context: Any) -> AsyncIterator[pb.ChatResponse]:
        self.requests.append(request)
        self.metadata = dict(context.invocation_metadata())
        async with report_errors(context):
            for step in self.script[len(self.requests) - 1]:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, grpc.StatusCode):
                    await context.abort(step)
                if step is FOREVER:
                    await self._stay()
                yield pb.ChatResponse(delta=pb.Delta(text=step))

    async def GetModelInfo(self, request: pb.GetModelInfoRequest, context: Any) -> pb.GetModelInfoResponse:
        return pb.GetModelInfoResponse(name="scripted")

    async def _stay(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()


@asynccontextmanager
async def serving(
    gateway: ScriptedGateway, listen: str = "127.0.0.1:0", tls: ServerTls = ServerTls()
) -> AsyncIterator[str]:
    """Serve inside the ``async with``, which yields the address."""
    server = RpcServer(listen, tls=open_server(tls))
    server.register(
        "expertmesh.v1.GenerationService", generation_pb2_grpc.add_GenerationServiceServicer_to_server, gateway
    )
    async with server:
        yield server.address
