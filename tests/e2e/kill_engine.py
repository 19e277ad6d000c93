"""Runs inside a gateway's pod: kills the engine process, which is the one that has torch.

python kill_engine.py                   at once
python kill_engine.py ENDPOINT          in the middle of a long answer that was streamed without disturbance before;
                                        prints both texts and the time of the longest pause as JSON
"""

import json
import os
import signal
import sys
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from expertmesh.client import Client, RetryPolicy, Sampling

PROMPT = "Hello, how are you?"
# Sampled: another engine must draw what the first would have drawn.
SAMPLING = Sampling(max_tokens=300, ignore_eos=True, temperature=0.8, seed=7)
NUM_BEFORE_KILL = 50


def kill_engine():
    """Kill the process that has loaded torch; there is one."""
    [engine] = [int(maps.parent.name) for maps in Path("/proc").glob("[0-9]*/maps") if has_torch(maps)]
    os.kill(engine, signal.SIGKILL)


def has_torch(maps):
    """Whether a process has torch in memory; one that is gone has not."""
    with suppress(OSError):
        return "libtorch" in maps.read_text()
    return False


def stream(client, disturb):
    """One long answer: the pieces, and when each came; ``disturb()`` is called in the middle."""
    texts, times = [], []
    for piece in client.chat(PROMPT, SAMPLING):
        texts.append(piece.text)
        times.append(time.monotonic())
        if len(texts) == NUM_BEFORE_KILL:
            disturb()
    return texts, times


def main(endpoint):
    """Stream twice and print what came."""
    with Client(endpoint, retries=RetryPolicy(max_attempts=1)) as client:
        undisturbed, _ = stream(client, lambda: None)
        disturbed, times = stream(client, kill_engine)
    texts = {"undisturbed": "".join(undisturbed), "disturbed": "".join(disturbed)}
    print(json.dumps(texts | {"pause_seconds": max(after - before for before, after in pairwise(times))}))


if __name__ == "__main__":
    main(sys.argv[1]) if sys.argv[1:] else kill_engine()
