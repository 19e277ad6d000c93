"""A mesh of processes with two replicas of each group of experts. Knows who serves what and where, no faults."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator, Sequence, Set
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path

from expertmesh.client import AsyncClient
from expertmesh.rpc.sockets import free_port
from faults.processes import Command, ServerProcess, listening_ports
from faults.wires import Wires, pass_on

DEMO = Path(__file__).parents[2] / "examples" / "tiny-mixtral"
MODEL, OTHER_MODEL = DEMO / "awq", DEMO / "bf16"
EXPERTMESH = "expertmesh.cli.main"
FLAGS = ("--with-parent", "--log-level", "error", "--threads", "1", "--device", "cpu")
QUARTERS = ("0-1", "2-3", "4-5", "6-7")
# Wires to further ports have the same numbers at their near ends, so each is at an address of its own.
NEAR_HOSTS = ("127.0.0.2", "127.0.0.3")
SWITCH_SECONDS = 1e-4
# Longer than the address of a Unix socket may be, so that servers whose place for them is called so have none.
TOO_LONG = 120 * "x"


class Transport(Enum):
    """Ways from gateway to replicas: the gateway's flag, whether there are Unix sockets, and what it is called."""

    GRPC = ("grpc", False, "gRPC")
    TCP = ("direct", False, "direct over TCP")
    UNIX = ("direct", True, "direct over a Unix socket")

    @property
    def flag(self) -> str:
        """The gateway's ``--transport``."""
        return self.value[0]

    @property
    def has_unix(self) -> bool:
        """Whether servers have a place for Unix sockets."""
        return self.value[1]

    @property
    def title(self) -> str:
        """What people call it."""
        return self.value[2]


@dataclass(frozen=True)
class FaultyMesh:
    """Expert servers, the two of the first group first; ``wires`` lead to the very first, but to no Unix socket."""

    replicas: tuple[ServerProcess, ...]
    endpoints: tuple[str, ...]
    transport: Transport
    wires: Wires

    @property
    def victim(self) -> ServerProcess:
        """The one that faults happen to."""
        return self.replicas[0]

    @property
    def twin(self) -> ServerProcess:
        """The other one with the same experts."""
        return self.replicas[1]

    async def heal(self) -> None:
        """Have everything as it was in the beginning."""
        self.wires.harm = pass_on
        self.wires.cut()
        for replica in self.replicas:
            await replica.heal()

    @asynccontextmanager
    async def gateway(self) -> AsyncIterator[str]:
        """Run a gateway; yields its address once every replica is ready."""
        listen = f"127.0.0.1:{free_port()}"
        flags = ("--experts", ",".join(self.endpoints), "--transport", self.transport.flag)
        own = ("--listen", listen, "--http-listen", "")
        command = Command(EXPERTMESH, ("gateway", "--model", str(MODEL), *FLAGS, *flags, *own))
        async with ServerProcess(command) as gateway, AsyncClient(listen) as client:
            await gateway.start()
            async for update in client.watch_load(0.1):
                if sum(replica.ready for replica in update.load.replicas) == len(self.replicas):
                    break
            yield listen


@asynccontextmanager
async def faulty_mesh(transport: Transport, groups: Sequence[str], directory: Path) -> AsyncIterator[FaultyMesh]:
    """Start two servers for each of ``groups`` of experts; ``directory`` is for what they write."""
    place = directory if transport.has_unix else directory / TOO_LONG
    place.mkdir(exist_ok=True)
    endpoints = [f"127.0.0.1:{free_port()}" for _ in range(2 * len(groups))]
    hosted = [experts for experts in groups for _ in range(2)]
    async with AsyncExitStack() as stack:
        replicas = [
            await stack.enter_async_context(ServerProcess(_expert(experts, endpoint, place)))
            for experts, endpoint in zip(hosted, endpoints, strict=True)
        ]
        async with asyncio.TaskGroup() as starts:
            for replica in replicas:
                starts.create_task(replica.start())
        stack.enter_context(_switching_often())
        wires = [stack.enter_context(Wires(host=host)) for host in NEAR_HOSTS]
        if not transport.has_unix:
            # The twin has one, too, which takes time: else it would be asked rather than the victim.
            for number, wire in enumerate(wires):
                further_ports = partial(_ports_of, replicas[number]) if transport is Transport.TCP else frozenset
                endpoints[number] = wire.to(endpoints[number], further_ports)
        yield FaultyMesh(tuple(replicas), tuple(endpoints), transport, wires[0])


@contextmanager
def _switching_often() -> Iterator[None]:
    """Have the threads of wires wait less for the clients, which are in this process, too."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def _ports_of(replica: ServerProcess) -> Set[int]:
    return listening_ports(replica.pid)


def _expert(experts: str, endpoint: str, place: Path) -> Command:
    arguments = ("expert", "--model", str(MODEL), "--experts", experts, "--listen", endpoint)
    return Command(EXPERTMESH, (*arguments, *FLAGS), (("TMPDIR", str(place)),))
