"""What happens to a replica or to its wires, and what is promised then. Knows faults, neither load nor measures."""

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from faults.mesh import OTHER_MODEL, FaultyMesh, Transport
from faults.wires import ANSWERS, CutError

KILL_EVERY_SECONDS = 2.0
DOWN_SECONDS = 1.0
FROZEN_SECONDS = 10.0
LATE_SECONDS = 0.15
# Of so many pieces that pass a wire, one is harmed.
CUT_EVERY, FLIP_EVERY = 200, 100

TWIN_ANSWERS = "the other one answers within 1 s"
WAITS = "requests wait until one is back"


@dataclass(frozen=True)
class Scenario:
    """``happen`` to a mesh until cancelled or done; what is still amiss then, ``FaultyMesh.heal`` mends.

    ``what`` it is and the ``promise`` for it are for people.
    """

    name: str
    what: str
    promise: str
    happen: Callable[[FaultyMesh], Awaitable[None]]
    needs_wires: bool = False

    def can_happen(self, transport: Transport) -> bool:
        """Whether there is what it happens to."""
        return not (self.needs_wires and transport.has_unix)


async def _nothing(mesh: FaultyMesh) -> None:
    """Leave all as it is."""


async def _kill_again_and_again(mesh: FaultyMesh) -> None:
    while True:
        await mesh.victim.kill()
        await mesh.victim.start()
        await asyncio.sleep(KILL_EVERY_SECONDS)


async def _kill_both(mesh: FaultyMesh) -> None:
    await asyncio.gather(mesh.victim.kill(), mesh.twin.kill())
    await asyncio.sleep(DOWN_SECONDS)
    await asyncio.gather(mesh.victim.start(), mesh.twin.start())


async def _freeze_for_a_while(mesh: FaultyMesh) -> None:
    mesh.victim.send(signal.SIGSTOP)
    await asyncio.sleep(FROZEN_SECONDS)
    mesh.victim.send(signal.SIGCONT)


async def _freeze(mesh: FaultyMesh) -> None:
    mesh.victim.send(signal.SIGSTOP)


async def _swallow(mesh: FaultyMesh) -> None:
    mesh.wires.harm = lambda direction, data: b""


async def _vanish(mesh: FaultyMesh) -> None:
    mesh.wires.abandon()


async def _wedge(mesh: FaultyMesh) -> None:
    await _swallow(mesh)
    mesh.wires.cut()


async def _be_late(mesh: FaultyMesh) -> None:
    def harm(direction: str, data: bytes) -> bytes:
        if direction == ANSWERS:
            time.sleep(LATE_SECONDS)
        return data

    mesh.wires.harm = harm


async def _cut_frames(mesh: FaultyMesh) -> None:
    def cut(data: bytes, rng: random.Random) -> bytes:
        raise CutError(data[: rng.randrange(len(data))])

    mesh.wires.harm = _now_and_then(CUT_EVERY, cut)


async def _flip_bits(mesh: FaultyMesh) -> None:
    def flip(data: bytes, rng: random.Random) -> bytes:
        place = rng.randrange(len(data))
        return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]

    mesh.wires.harm = _now_and_then(FLIP_EVERY, flip)


def _now_and_then(every: int, harm: Callable[[bytes, random.Random], bytes]) -> Callable[[str, bytes], bytes]:
    """Harm one piece of so many."""
    rng = random.Random(0)
    return lambda direction, data: data if rng.randrange(every) else harm(data, rng)


async def _lie(mesh: FaultyMesh) -> None:
    await mesh.victim.start(mesh.victim.command.but(module="faults.liar"))


async def _serve_other_model(mesh: FaultyMesh) -> None:
    await mesh.victim.start(mesh.victim.command.but("--model", str(OTHER_MODEL)))


async def _compute_otherwise(mesh: FaultyMesh) -> None:
    await mesh.victim.start(mesh.victim.command.but("--backend", "cpu-a8"))


SCENARIOS = (
    Scenario("undisturbed", "nothing", "", _nothing),
    Scenario("killed", "one replica is killed and started again, again and again", TWIN_ANSWERS, _kill_again_and_again),
    Scenario("both killed", "both replicas of a group are killed and started again", WAITS, _kill_both),
    Scenario("frozen", f"one is stopped for {FROZEN_SECONDS:g} s (SIGSTOP)", TWIN_ANSWERS, _freeze_for_a_while),
    Scenario("frozen for good", "one is stopped and never goes on", TWIN_ANSWERS, _freeze),
    Scenario("blackhole", "the network swallows all to and from one", TWIN_ANSWERS, _swallow, True),
    Scenario("half-open", "one vanishes and its connections do not end", TWIN_ANSWERS, _vanish, True),
    Scenario("wedged", "connections to one end, new ones are accepted and hear nothing", TWIN_ANSWERS, _wedge, True),
    Scenario("slow", f"answers of one are {LATE_SECONDS * 1000:g} ms late", TWIN_ANSWERS, _be_late, True),
    Scenario("cut frames", "connections to one end in the middle of frames", TWIN_ANSWERS, _cut_frames, True),
    Scenario("flipped bits", "bits turn over on the way to one and back", TWIN_ANSWERS, _flip_bits, True),
    Scenario("liar", "one answers with NaN, other shapes or other rows", "it is found out, the other one asked", _lie),
    Scenario("other model", "one comes back with another model", "it is refused", _serve_other_model),
    Scenario(
        "other numerics", "one comes back with kernels that compute other bits", "it is refused", _compute_otherwise
    ),
)
