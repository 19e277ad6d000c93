"""An expert server in this process, its event loop in a thread of its own, and small experts for it."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from certificates import Authority

from expertmesh.expert import link_host
from expertmesh.expert.config import ExpertServerConfig
from expertmesh.expert.process import RunningServer, running
from expertmesh.expert.store import ExpertStore
from expertmesh.kernels.moe import run_chosen
from expertmesh.mesh import direct_link
from expertmesh.mesh.direct_link import DirectLink
from expertmesh.mesh.link import Link
from expertmesh.mesh.open_link import open_link
from expertmesh.rpc.tls import open_client
from expertmesh.settings.tls import ClientTls, ServerTls
from expertmesh.wire.calls import ExpertCall
from expertmesh.wire.info import ServerInfo

NUM_LAYERS, NUM_EXPERTS, HIDDEN = 3, 4, 16
FINGERPRINT = "f00d"
INFO = ServerInfo(FINGERPRINT, (0, 1, 2, 3), 4, 3, HIDDEN, "float32", "torch", "cpu", 0, "0.0.1", "", True)


class Door:
    """Experts behind a door: each launch is counted when it has begun and goes on when let through."""

    num_bytes = 0

    def __init__(self, is_open: bool = True) -> None:
        self.entered, self.releases = threading.Semaphore(0), threading.Semaphore(0)
        self.is_open = is_open
        self.launches: list[int] = []

    def __call__(self, x: torch.Tensor, num_rows: Sequence[int], row_weights: torch.Tensor) -> torch.Tensor:
        """See ``GroupedFFN``: expert e scales a row by e + 1, after a sine that makes every bit count."""
        self.launches.append(len(x))
        self.entered.release()
        if not self.is_open:
            assert self.releases.acquire(timeout=30)
        experts = torch.repeat_interleave(torch.arange(len(num_rows)), torch.tensor(list(num_rows)))
        return x.float().sin() * (experts[:, None] + 1) * row_weights[:, None]


@dataclass(frozen=True)
class Ends:
    """What the ends of links show each other."""

    server: ServerTls = ServerTls()
    client: ClientTls = ClientTls()


class LinkServer:
    """A running expert server; ``layers`` are its doors, and callers have the ``ends`` that they should."""

    def __init__(self, server: RunningServer, store: ExpertStore, stop: threading.Event, ends: Ends) -> None:
        self.address, self.batcher, self.store = server.address, server.batcher, store
        self.stop, self.ends = stop, ends

    @property
    def layers(self) -> Sequence[Any]:
        """Its experts."""
        return self.store.layers

    def open(self, transport: str, fingerprint: str = FINGERPRINT, client: ClientTls | None = None) -> Link:
        """Open a link to it, as its caller or as another ``client``."""
        tls = open_client(self.ends.client if client is None else client)
        return open_link(self.address, fingerprint, transport, tls=tls).link

    def expected(self, call: ExpertCall) -> torch.Tensor:
        """What experts in this process make of a call."""
        slots = self.store.slots_of(call.topk_ids)
        ffn = Door()
        return run_chosen(ffn, NUM_EXPERTS, call.hidden, slots, call.topk_weights)


# Of servers whose test does not say.
ENDS = Ends()


@contextmanager
def link_server(
    closed_layers: Sequence[int] = (), info: ServerInfo = INFO, ends: Ends | None = None, **config: Any
) -> Iterator[LinkServer]:
    """Serve; the layers ``closed_layers`` are closed doors until they are opened, at the latest at the end."""
    ends = ends or ENDS
    layers = [Door(layer not in closed_layers) for layer in range(NUM_LAYERS)]
    store = ExpertStore(layers, range(NUM_EXPERTS), NUM_EXPERTS, HIDDEN, torch.device("cpu"))
    settings = ExpertServerConfig(Path("unused"), "127.0.0.1:0", **{"drain_seconds": 5.0, "tls": ends.server, **config})
    stop, ready, servers = threading.Event(), threading.Event(), []

    async def serve() -> None:
        async with running(settings, store, info) as server:
            servers.append(server)
            ready.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(timeout=30)
        yield LinkServer(servers[0], store, stop, ends)
    finally:
        for layer in layers:
            layer.is_open = True
            layer.releases.release(100)
        stop.set()
        thread.join(timeout=30)
    assert not thread.is_alive()


def make_call(
    num_rows: int = 2,
    layer: int = 0,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
    timeout_seconds: float | None = None,
) -> ExpertCall:
    """Make a call with random rows and choices, one of which is answered elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num_rows, HIDDEN, generator=generator).to(dtype)
    ids = torch.rand(num_rows, NUM_EXPERTS, generator=generator).argsort(dim=1)[:, :2].int().numpy()
    ids[0, 0] = -1
    weights = torch.rand(num_rows, 2, generator=generator).numpy()
    return ExpertCall(layer, hidden, np.ascontiguousarray(ids), weights, timeout_seconds)


def share_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have direct links send each call, however small, through the memory that they share with the server."""
    send = DirectLink.send

    def send_from_room(link: DirectLink, call_id: int, call: ExpertCall) -> int:
        room = link.take_room(call.hidden.shape, call.hidden.dtype)
        return send(link, call_id, call if room is None else replace(call, hidden=room.copy_(call.hidden)))

    monkeypatch.setattr(direct_link, "MIN_SHARED_BYTES", 1)
    monkeypatch.setattr(DirectLink, "send", send_from_room)


def use_tls(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """Have servers and their callers show each other certificates."""
    authority = Authority(directory)
    monkeypatch.setitem(globals(), "ENDS", Ends(authority.server(), authority.client()))


def have_no_unix_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have direct links go over TCP, as between two hosts."""

    def refuse() -> None:
        raise OSError("no place")

    monkeypatch.setattr(link_host, "socket_directory", refuse)
