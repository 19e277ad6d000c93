"""Score the held-out conversations through a running gateway: whole answers, greedy.

Usage: expertmesh up --model examples/tiny-mixtral/awq
       python examples/tiny-mixtral/evaluate.py [--endpoint 127.0.0.1:50051]
"""

import argparse
import asyncio
import json
from collections import Counter
from pathlib import Path

from expertmesh.client import AsyncClient, Sampling

HELD_OUT = Path(__file__).parent / "heldout.jsonl"
# Longer answers do not occur; a model that does not stop is wrong anyway.
MAX_TOKENS = 48


async def evaluate(endpoint: str) -> tuple[Counter[str], Counter[str]]:
    """Ask everything at once; returns right answers and questions per task."""
    conversations = [json.loads(line) for line in HELD_OUT.read_text(encoding="utf-8").splitlines()]
    async with AsyncClient(endpoint) as client:
        answers = await asyncio.gather(*(_ask(client, conversation["messages"]) for conversation in conversations))
    asked = Counter(conversation["task"] for conversation in conversations)
    right = Counter(
        conversation["task"]
        for conversation, answer in zip(conversations, answers, strict=True)
        if answer == conversation["answer"]
    )
    return right, asked


async def _ask(client: AsyncClient, messages: list[dict[str, str]]) -> str:
    turns = [(message["role"], message["content"]) for message in messages]
    return "".join([piece.text async for piece in client.chat(turns, Sampling(max_tokens=MAX_TOKENS))])


def main() -> None:
    """Print the exact matches per task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", default="127.0.0.1:50051")
    right, asked = asyncio.run(evaluate(parser.parse_args().endpoint))
    for task, count in asked.items():
        print(f"{task:12} {right[task]:4} of {count:4}  {right[task] / count:6.1%}")
    print(f"{'all':12} {right.total():4} of {asked.total():4}  {right.total() / asked.total():6.1%}")


if __name__ == "__main__":
    main()
