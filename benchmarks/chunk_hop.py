"""A prefill chunk through several expert servers: what the gateway's dispatcher costs beside a bare socket.

Rows of Mixtral's width (4096, bfloat16) each choose two of eight experts, which are spread over processes and return
the rows as float32: no kernel time, everything else. The peers move as many bytes: processes that answer what they
read from a Unix socket with twice as much, and a copy from memory to memory.
"""

import asyncio
import os
import socket
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing

import numpy as np
import torch
from report import Row
from servers import connected_pool

from expertmesh.kernels.backend import DeviceFFN
from expertmesh.mesh.dispatch_config import DispatchConfig
from expertmesh.mesh.dispatcher import RemoteExperts
from expertmesh.mesh.expert_load import ExpertLoadCounter
from expertmesh.model.experts import LayerCall, run_experts
from expertmesh.rpc.exact_io import receive_exactly

HIDDEN, NUM_EXPERTS, NUM_CHOSEN = 4096, 8, 2
OUT_BYTES, BACK_BYTES = HIDDEN * torch.bfloat16.itemsize, HIDDEN * torch.float32.itemsize
LENGTH_BYTES = 8


class WidenRows(DeviceFFN):
    """Experts that cost as little as any: the rows, as float32."""

    num_bytes = 0

    def __call__(self, x: torch.Tensor, num_rows: Sequence[int], row_weights: torch.Tensor) -> torch.Tensor:
        """See ``GroupedFFN``."""
        return x.float()

    def run_chosen(
        self,
        hidden: torch.Tensor,
        topk_slots: torch.Tensor,
        topk_weights: torch.Tensor,
        out: torch.Tensor | None = None,
        nonfinite: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See ``DeviceFFN``."""
        return hidden.float() if out is None else out.copy_(hidden)


def experts_of(server: int, num_servers: int) -> range:
    """Spread the experts over servers."""
    share = NUM_EXPERTS // num_servers
    return range(server * share, (server + 1) * share)


def serve_socket_echo() -> None:
    """Answer each message, whose length comes first, with twice its bytes, over a Unix socket without a file."""
    with socket.socket(socket.AF_UNIX) as listener:
        name = f"expertmesh-benchmark-{os.getpid()}"
        listener.bind("\0" + name)
        listener.listen()
        print(name, flush=True)
        while True:
            with listener.accept()[0] as connection:
                _echo_all(connection)


def _echo_all(connection: socket.socket) -> None:
    length, memory = memoryview(bytearray(LENGTH_BYTES)), memoryview(b"")
    while receive_exactly(connection, length):
        num_bytes = int.from_bytes(length, "little")
        if len(memory) < num_bytes:
            memory = memoryview(bytearray(num_bytes))
        receive_exactly(connection, memory[:num_bytes])
        for _ in range(2):
            connection.sendall(memory[:num_bytes])


async def measure_chunks(
    servers: Sequence[str], echoes: Sequence[str], transports: Sequence[str], repetitions: Mapping[int, int]
) -> list[Row]:
    """Time chunks of each size over each transport, in turns with the peers."""
    rows = []
    for transport in transports:
        async with connected_pool(frozenset(servers), NUM_EXPERTS, transport) as pool:
            remote = RemoteExperts(pool.roster, DispatchConfig(), ExpertLoadCounter(1, NUM_EXPERTS))
            with ExitStack() as stack:
                sockets = [stack.enter_context(closing(_connect(name))) for name in echoes]
                for num_rows, times in repetitions.items():
                    rows += await asyncio.to_thread(_compare, remote, sockets, transport, num_rows, times)
    return rows


def _connect(name: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect("\0" + name)
    return connection


def _compare(
    remote: RemoteExperts, echoes: Sequence[socket.socket], transport: str, num_rows: int, repetitions: int
) -> list[Row]:
    call = _make_call(num_rows)
    shares = _rows_of_servers(call.topk_ids.numpy(), len(echoes))
    ways = [lambda: run_experts(remote, call), _make_echo(echoes, shares), _make_copy(sum(shares))]
    hop, echo, copy = (statistics.median(times) for times in _in_turns(ways, repetitions))
    case = f"{num_rows} rows, {len(echoes)} servers, {transport}"
    gigabytes = sum(shares) * (OUT_BYTES + BACK_BYTES) / 1e9
    return [
        Row(case, "p50_seconds", hop, "s", "Unix socket echo", echo),
        Row(case, "throughput", gigabytes / hop, "GB/s", "memcpy", gigabytes / copy),
    ]


def _make_call(num_rows: int) -> LayerCall:
    generator = torch.Generator().manual_seed(num_rows)
    hidden = torch.randn(num_rows, HIDDEN, generator=generator).bfloat16()
    topk_ids = torch.rand(num_rows, NUM_EXPERTS, generator=generator).argsort(1)[:, :NUM_CHOSEN].contiguous()
    return LayerCall(0, hidden, topk_ids, torch.full((num_rows, NUM_CHOSEN), 1 / NUM_CHOSEN))


def _rows_of_servers(topk_ids: np.ndarray, num_servers: int) -> list[int]:
    """Count the rows that choose any expert of each server."""
    hosts = [experts_of(server, num_servers) for server in range(num_servers)]
    return [int(np.isin(topk_ids, np.array(host)).any(axis=1).sum()) for host in hosts]


def _make_echo(echoes: Sequence[socket.socket], shares: Sequence[int]) -> Callable[[], None]:
    sent = [memoryview(os.urandom(share * OUT_BYTES)) for share in shares]
    received = [memoryview(bytearray(share * BACK_BYTES)) for share in shares]

    def echo() -> None:
        for connection, message in zip(echoes, sent, strict=True):
            connection.sendall(len(message).to_bytes(LENGTH_BYTES, "little"))
            connection.sendall(message)
        for connection, memory in zip(echoes, received, strict=True):
            receive_exactly(connection, memory)

    return echo


def _make_copy(num_rows: int) -> Callable[[], None]:
    source = torch.ones(num_rows * (OUT_BYTES + BACK_BYTES), dtype=torch.uint8)
    target = torch.empty_like(source)
    return lambda: None if target.copy_(source) is target else None


def _in_turns(ways: Sequence[Callable[[], object]], repetitions: int) -> list[list[float]]:
    times: list[list[float]] = [[] for _ in ways]
    for repetition in range(repetitions + 2):
        for way, results in zip(ways, times, strict=True):
            started = time.perf_counter()
            way()
            if repetition >= 2:  # the first warm up
                results.append(time.perf_counter() - started)
    return times
