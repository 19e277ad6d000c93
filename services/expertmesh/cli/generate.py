"""``expertmesh generate``: one prompt, one answer."""

import asyncio
import sys
from typing import Annotated

import typer

from expertmesh.cli import options
from expertmesh.cli.ask import print_stream
from expertmesh.client.gateway import GatewayClient, Sampling


def generate(
    prompt: Annotated[str, typer.Argument(help="What to ask; - reads it from standard input.", show_default=False)],
    raw: Annotated[
        bool,
        options.flag(options.MODEL, "RAW", "Continue the text as it is, without the [INST] template.", "--raw"),
    ] = False,
    endpoint: options.Endpoint = options.DEFAULT_GATEWAY,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    seed: options.Seed = None,
) -> None:
    """Ask a gateway one thing and stream the answer to standard output."""
    text = sys.stdin.read() if prompt == "-" else prompt
    sampling = Sampling(max_tokens, temperature, top_k, top_p, repetition_penalty, seed)
    asyncio.run(_generate(endpoint, text, raw, sampling))


async def _generate(endpoint: str, text: str, raw: bool, sampling: Sampling) -> None:
    async with GatewayClient(endpoint) as client:
        answer = client.generate(text, sampling) if raw else client.chat([("user", text)], sampling)
        await print_stream(answer)
