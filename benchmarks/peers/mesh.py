"""expertmesh itself, asked over its public API. Knows how to start it, not how it works.

Usage: python -m peers.mesh CHECKPOINT THREADS CASE...; prints a line of JSON per mode: its name, and tokens per second
by case.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path

from expertmesh.client import AsyncClient, Sampling
from expertmesh.rpc.sockets import free_port
from peers.cases import Case, measure

START_SECONDS = 180.0
STOP_SECONDS = 30.0
# Requests that come together start some steps apart: a small model takes many steps before the last one has come.
STARTING_STEPS = 64


@contextmanager
def serving(command: str, *flags: object) -> Iterator[str]:
    """Run ``expertmesh COMMAND``; yields the gateway's endpoint once it answers."""
    endpoint = f"127.0.0.1:{free_port()}"
    # Prompts are measured several times, and shall be computed each time.
    where = ("--listen", endpoint, "--http-listen", "", "--no-prefix-cache")
    argv = [sys.executable, "-m", "expertmesh.cli.main", command, *map(str, flags), *where]
    with subprocess.Popen(argv, stdout=sys.stderr) as process:
        try:
            asyncio.run(_wait_until_serving(endpoint, process))
            yield endpoint
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)


async def _wait_until_serving(endpoint: str, process: "subprocess.Popen[bytes]") -> None:
    async with AsyncClient(endpoint) as client, asyncio.timeout(START_SECONDS):
        while not await client.is_serving():
            if process.poll() is not None:
                raise RuntimeError(f"expertmesh ended with exit code {process.returncode}; its output above says why")
            await asyncio.sleep(0.2)


def rate_at(endpoint: str, case: Case) -> float:
    """Ask for all sequences at once; returns tokens per second.

    A prefill ends with the first token. Decoding is the median gap between two tokens of a sequence, from when the last
    sequence has its first token to when the first one has its last: all are in the batch then, none in its prefill.
    Short ones on a busy machine may never be there together; then all gaps count.
    """
    return asyncio.run(_rate_at(endpoint, case))


async def _rate_at(endpoint: str, case: Case) -> float:
    async with AsyncClient(endpoint) as client:
        started = time.perf_counter()
        num_tokens = 1 + (case.new_tokens + STARTING_STEPS if case.new_tokens else 0)
        answers = await asyncio.gather(*(_ask(client, prompt, num_tokens) for prompt in case.prompts()))
    if not case.new_tokens:
        return case.batch * case.prompt_tokens / (max(arrivals[0] for arrivals in answers) - started)
    start, stop = max(arrivals[0] for arrivals in answers), min(arrivals[-1] for arrivals in answers)
    pairs = [pair for arrivals in answers for pair in pairwise(arrivals)]
    together = [(earlier, later) for earlier, later in pairs if start <= later <= stop]
    return case.batch / statistics.median(later - earlier for earlier, later in together or pairs)


async def _ask(client: AsyncClient, prompt: list[int], max_tokens: int) -> list[float]:
    """Return when each token of the answer arrived, in ``time.perf_counter`` seconds."""
    sampling = Sampling(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    return [time.perf_counter() async for piece in client.generate(prompt, sampling) for _ in piece.token_ids]


def main() -> None:
    """Serve in each mode, measure, print."""
    model, threads, cases = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    on_cpu = ("--model", model, "--device", "cpu")
    modes: dict[str, tuple[str, *tuple[object, ...]]] = {
        "expertmesh": ("up", *on_cpu),
        "expertmesh a8": ("up", *on_cpu, "--backend", "cpu-a8"),
        "expertmesh local": ("gateway", *on_cpu, "--local-experts", "--threads", threads),
    }
    for name, command in modes.items():
        with serving(*command) as endpoint:
            rates = measure(partial(rate_at, endpoint), cases)
        print(json.dumps([name, rates]), flush=True)


if __name__ == "__main__":
    main()
