"""A small Kubernetes API server for EndpointSlices: real HTTP, and every way in which a real one lets its clients down.

Lists come in pages, watches as lines of JSON. ``faults`` are taken one per request, first come first served; a request
without a fault is answered as it should be.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

SELECTOR = "app.kubernetes.io/component=expert,app.kubernetes.io/instance=demo"
PATH = "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
GONE = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}


def make_slice(
    name: str, *pods: dict[str, Any], port: int = 50051, port_name: str = "grpc", empty: Any = None
) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name.partition("-")[0]}},
        "addressType": "IPv4",
        "endpoints": list(pods) or empty,
        "ports": [{"name": "metrics", "port": 9090}, {"name": port_name, "port": port}],
    }


def pod(address: str, ready: bool | None = True, **conditions: bool | None) -> dict[str, Any]:
    return {"addresses": [address], "conditions": {"ready": ready, **conditions}}


@dataclass
class FakeApiServer:
    """``put`` and ``delete`` change slices as a controller would; ``requests`` are the queries that came."""

    page_size: int = 500
    token: str = "right"
    url: str = ""
    slices: dict[str, dict[str, Any]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    requests: list[dict[str, str]] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)
    version: int = 100
    oldest_version: int = 0
    num_watches: int = 0
    _log: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, item: dict[str, Any]) -> None:
        self._record("MODIFIED" if item["metadata"]["name"] in self.slices else "ADDED", item)
        self.slices[item["metadata"]["name"]] = item

    def delete(self, name: str) -> None:
        self._record("DELETED", self.slices.pop(name))

    def bookmark(self) -> None:
        self._record("BOOKMARK", {"kind": "EndpointSlice", "metadata": {}})

    def forget_silently(self, name: str) -> None:
        """Lose a slice without an event."""
        del self.slices[name]

    def break_watches(self, fault: str) -> None:
        """Make all running watches end with ``fault``: cut, 410 or 500."""
        self._record(fault, {})

    def expire(self) -> None:
        """Forget all versions before this one."""
        self.oldest_version = self.version

    def _record(self, kind: str, item: dict[str, Any]) -> None:
        self.version += 1
        item = {**item, "metadata": {**item.get("metadata", {}), "resourceVersion": str(self.version)}}
        self._log.append((self.version, {"type": kind, "object": item}))
        self._changed.set()
        self._changed = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(dict(request.query))
        self.arrivals.append(time.monotonic())
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response({"code": 401, "message": "Unauthorized"}, status=401)
        match self.faults.pop(0) if self.faults else "":
            case "hang":
                await asyncio.sleep(3600)
            case "500" | "410" | "403" as status:
                return web.json_response({"code": int(status), "message": "as told"}, status=int(status))
            case "not json":
                return web.Response(text="{")
            case "drop":
                request.transport.abort()
        return await self._watch(request) if request.query.get("watch") else self._list(request.query)

    def _list(self, query: Any) -> web.Response:
        first = int(query.get("continue", 0))
        size = min(self.page_size, int(query.get("limit", self.page_size)))
        page = [self.slices[name] for name in sorted(self.slices)[first : first + size]]
        metadata = {"resourceVersion": str(self.version)}
        if first + size < len(self.slices):
            metadata["continue"] = str(first + size)
        return web.json_response({"metadata": metadata, "items": page or None})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        version, deadline = (
            int(request.query["resourceVersion"]),
            time.monotonic() + int(request.query["timeoutSeconds"]),
        )
        if version < self.oldest_version:
            return web.json_response(GONE, status=410)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        self.num_watches += 1
        while (left := deadline - time.monotonic()) > 0:
            changed = self._changed
            for entry in [entry for entry in self._log if entry[0] > version]:
                if not await self._write(response, request, entry[1]):
                    self._log.remove(entry)
                    return response
                version = entry[0]
            try:
                await asyncio.wait_for(changed.wait(), left)
            except TimeoutError:
                break
        return response

    async def _write(self, response: web.StreamResponse, request: web.Request, event: dict[str, Any]) -> bool:
        """Write one event, or what breaks the watch; returns whether the watch goes on."""
        line = json.dumps(event).encode() + b"\n"
        match event["type"]:
            case "cut":
                await response.write(line[: len(line) // 2])
                request.transport.abort()
            case "cut politely":
                await response.write(line[: len(line) // 2])
            case "410":
                await response.write(json.dumps({"type": "ERROR", "object": GONE}).encode() + b"\n")
            case "500":
                status = {"kind": "Status", "code": 500, "message": "etcdserver: request timed out"}
                await response.write(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
            case _:
                await response.write(line)
                return True
        return False


@asynccontextmanager
async def run_api_server(namespace: str = "mesh", port: int = 0, **settings: Any) -> AsyncIterator[FakeApiServer]:
    """Serve on a free port, or on ``port``."""
    server = FakeApiServer(**settings)
    async with listen(server, namespace, port):
        yield server


@asynccontextmanager
async def listen(server: FakeApiServer, namespace: str = "mesh", port: int = 0) -> AsyncIterator[None]:
    """Let ``server`` be reached inside the ``async with``, and not after it."""
    app = web.Application()
    app.router.add_get(PATH.format(namespace=namespace), server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield
    finally:
        await runner.cleanup()
