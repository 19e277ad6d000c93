"""Runs inside a pod: asks a gateway without pause until the file STOP exists, then prints what happened as JSON.

python load.py ENDPOINT STOP ATTEMPTS. Half of the workers keep a connection, half make one for every request; a client
asks up to ATTEMPTS times. A failure says whether some of its answer had come.
"""

import asyncio
import json
import sys
from collections import defaultdict
from pathlib import Path

from expertmesh.client import AsyncClient, RetryPolicy, Sampling
from expertmesh.errors import ExpertmeshError

PROMPTS = (
    "What is 291 - 150?",
    "What is 17 + 25?",
    "Spell 'tiger'.",
    "Translate 'red' from English to French.",
    "What is the last letter of 'house'?",
    "Hello, how are you?",
)
MAX_TOKENS = 32


class Record:
    """What was answered and what failed."""

    def __init__(self):
        self.num_answers = 0
        self.texts = defaultdict(set)
        self.failures = []

    async def ask(self, client, prompt):
        """Ask once and note the outcome."""
        texts = []
        try:
            async for piece in client.chat(prompt, Sampling(max_tokens=MAX_TOKENS)):
                texts.append(piece.text)
        except ExpertmeshError as error:
            self.failures.append({"prompt": prompt, "error": str(error), "had_begun": bool(texts)})
        else:
            self.num_answers += 1
            self.texts[prompt].add("".join(texts))

    def print(self):
        """Write it as one line."""
        texts = {prompt: sorted(texts) for prompt, texts in self.texts.items()}
        print(json.dumps({"num_answers": self.num_answers, "texts": texts, "failures": self.failures}), flush=True)


async def work(record, endpoint, retries, prompt, stop, keeps_connection):
    """Ask one prompt again and again."""
    while not stop.exists():
        async with AsyncClient(endpoint, retries=retries) as client:
            await record.ask(client, prompt)
            while keeps_connection and not stop.exists():
                await record.ask(client, prompt)


async def main(endpoint, stop, retries):
    """Run all workers."""
    record = Record()
    workers = (work(record, endpoint, retries, prompt, stop, i % 2 == 0) for i, prompt in enumerate(PROMPTS))
    await asyncio.gather(*workers)
    record.print()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), RetryPolicy(max_attempts=int(sys.argv[3]))))
