"""The pause that clients see when the engine process is killed in the middle of their answers.

Usage: python benchmarks/engine_restart.py [--directory DIR] [--kills 3] [--small] [--json FILE]

A checkpoint (the demo model unless said otherwise) is served by an engine process with all experts in it. A few greedy
answers are streamed; the engine is killed with SIGKILL once every answer has got some tokens, and started again by its
keeper. The pause is the longest gap between two tokens of an answer; it is compared with how long the first engine took
until it served. Answers must be the same as without a kill.
"""

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from report import Row, parse_arguments, show

from expertmesh.cli.gateway_processes import Commands
from expertmesh.engine.request import Request
from expertmesh.gateway.background import background
from expertmesh.gateway.config import GatewayConfig
from expertmesh.gateway.link.client import EngineClient
from expertmesh.gateway.process_keeper import ProcessKeeper
from expertmesh.model.sampling import SamplingParams
from expertmesh.rpc.socket_directory import socket_directory

DEMO = Path(__file__).parent.parent / "examples" / "tiny-mixtral" / "awq"
NUM_ANSWERS = 4
TOKENS_BETWEEN_KILLS = 20


@dataclass
class Answer:
    """Tokens of an answer and when they came."""

    ids: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    async def take(self, client: EngineClient, prompt: tuple[int, ...], num_tokens: int) -> None:
        """Stream an answer to its end."""
        sampling = SamplingParams(max_tokens=num_tokens, ignore_eos=True)
        async for delta in client.generate(Request(prompt, sampling)):
            self.ids.append(delta.choice.token_id)
            self.times.append(time.perf_counter())

    @property
    def longest_gap(self) -> float:
        """Seconds between two tokens at most."""
        return max(after - before for before, after in zip(self.times, self.times[1:], strict=False))


async def stream(directory: Path, num_kills: int, num_tokens: int) -> tuple[list[Answer], float]:
    """Stream answers from an engine that is killed ``num_kills`` times; returns them and how long the start took."""
    client, started = EngineClient(), time.perf_counter()
    with socket_directory() as sockets:
        socket = str(sockets / "engine")
        command = Commands().engine(GatewayConfig(directory, device="cpu", log_level="error"), socket)
        keeper = ProcessKeeper("engine", command, client.check_loaded)
        async with background(client.run(socket), keeper.run()):
            await client.wait_serving()
            start_seconds = time.perf_counter() - started
            answers = [Answer() for _ in range(NUM_ANSWERS)]
            prompts = (tuple(range(10 + i, 30 + i)) for i in range(NUM_ANSWERS))
            async with asyncio.TaskGroup() as group:
                for answer, prompt in zip(answers, prompts, strict=True):
                    group.create_task(answer.take(client, prompt, num_tokens))
                for kill in range(num_kills):
                    await kill_after(keeper, answers, (kill + 1) * TOKENS_BETWEEN_KILLS)
    return answers, start_seconds


async def kill_after(keeper: ProcessKeeper, answers: Sequence[Answer], num_tokens: int) -> None:
    """Kill the engine once every answer has ``num_tokens``."""
    while any(len(answer.ids) < num_tokens for answer in answers):
        await asyncio.sleep(0.001)
    assert keeper.pid is not None
    os.kill(keeper.pid, signal.SIGKILL)


def measure(directory: Path, num_kills: int) -> list[Row]:
    """Measure pauses one by one: a request that several engines die over fails."""
    num_tokens = 3 * TOKENS_BETWEEN_KILLS
    undisturbed, _ = asyncio.run(stream(directory, 0, num_tokens))
    pauses, starts = [], []
    for _ in range(num_kills):
        answers, start_seconds = asyncio.run(stream(directory, 1, num_tokens))
        if [answer.ids for answer in answers] != [answer.ids for answer in undisturbed]:
            raise SystemExit("an answer changed when the engine was killed")
        pauses.append(max(answer.longest_gap for answer in answers))
        starts.append(start_seconds)
    gap = median(answer.longest_gap for answer in undisturbed)
    return [
        Row("engine killed", "pause", median(pauses), "s", "start until it serves", median(starts)),
        Row("undisturbed", "longest gap", gap * 1e3, "ms"),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Kill engines and report."""
    parser = parse_arguments(__doc__)
    parser.add_argument("--directory", type=Path, default=DEMO, help="the checkpoint")
    parser.add_argument("--kills", type=int, default=3, help="how many are measured")
    arguments = parser.parse_args(argv)
    num_kills = 1 if arguments.small else arguments.kills
    show("an engine that dies", measure(arguments.directory, num_kills), arguments.json)


if __name__ == "__main__":
    main()
