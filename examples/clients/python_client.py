"""Ask with expertmesh's own client: one answer streamed, then several at once with asyncio.

Usage: python examples/clients/python_client.py [ADDRESS]

ADDRESS is 127.0.0.1:50051 unless given. EXPERTMESH_API_KEY is sent along where it is set.
"""

import asyncio
import os
import sys

from expertmesh.client import AsyncClient, Client, Sampling

QUESTIONS = ("Add 123 and 45.", "Spell 'tiger'.", "Translate 'red' from English to French.")


def stream(address: str, key: str | None) -> None:
    """Print the pieces of one answer as they come."""
    with Client(address, api_key=key, timeout_seconds=60) as client:
        for piece in client.chat("What is 291 - 150?", Sampling(max_tokens=48)):
            print(piece.text, end="", flush=True)
    print()


async def ask_at_once(address: str, key: str | None) -> None:
    """Print whole answers, and how sure the model was of the least probable token of each."""
    async with AsyncClient(address, api_key=key, timeout_seconds=60) as client:
        sampling = Sampling(max_tokens=48, logprobs=0)
        answers = await asyncio.gather(*(client.chat_answers(question, sampling) for question in QUESTIONS))
    for question, [answer] in zip(QUESTIONS, answers, strict=True):
        print(f"{question} {answer.text} ({min(entry.token.logprob for entry in answer.logprobs):.2f})")


def main(address: str = "127.0.0.1:50051") -> None:
    """Ask in both ways."""
    key = os.environ.get("EXPERTMESH_API_KEY")
    stream(address, key)
    asyncio.run(ask_at_once(address, key))


if __name__ == "__main__":
    main(*sys.argv[1:])
