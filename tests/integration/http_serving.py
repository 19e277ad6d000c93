"""A mesh that serves HTTP from a thread of its own, so that blocking clients can ask it."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
from demo_model import MODEL
from integration_mesh import Mesh, run_mesh

T = TypeVar("T")


@dataclass(frozen=True)
class Served:
    """A mesh, its URL and a plain HTTP client of it."""

    mesh: Mesh
    url: str
    http: httpx.Client
    _loop: asyncio.AbstractEventLoop

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop of the mesh."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def wait_idle(self, num_tasks: int | None = None) -> None:
        """Return once nothing is allocated, no sequence is left, and no more than ``num_tasks`` tasks."""
        self.run(self._wait_idle(num_tasks))

    async def _wait_idle(self, num_tasks: int | None) -> None:
        gateway = self.mesh.gateway
        async with asyncio.timeout(20):
            while gateway.blocks.num_free < gateway.blocks.num_blocks or gateway.scheduler.has_work:
                await asyncio.sleep(0.01)
            while num_tasks is not None and len(asyncio.all_tasks()) - 1 > num_tasks:
                await asyncio.sleep(0.01)

    def num_tasks(self) -> int:
        """Count the tasks of the mesh's loop, this question not among them."""

        async def count() -> int:
            return len(asyncio.all_tasks()) - 1

        return self.run(count())


@contextmanager
def serving(directory: Path = MODEL, **config: Any) -> Iterator[Served]:
    """Serve a checkpoint over HTTP and gRPC; ``config`` are arguments of ``run_mesh``. Experts are local by default."""
    ready: asyncio.Queue[Any] = asyncio.Queue()
    started = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(directory, config, ready, started)))
    thread.start()
    assert started.wait(60)
    loop, mesh, stop = ready.get_nowait()
    url = f"http://{mesh.gateway.http.address}"
    try:
        with httpx.Client(base_url=url, timeout=60) as http:
            yield Served(mesh, url, http, loop)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)


async def _serve(
    directory: Path, config: dict[str, Any], ready: "asyncio.Queue[Any]", started: threading.Event
) -> None:
    stop = asyncio.Event()
    try:
        async with run_mesh(directory, **{"hosts": None, "http_listen": "127.0.0.1:0", **config}) as mesh:
            ready.put_nowait((asyncio.get_running_loop(), mesh, stop))
            started.set()
            await stop.wait()
    finally:
        started.set()
