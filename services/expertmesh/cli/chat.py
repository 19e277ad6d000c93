"""``expertmesh chat``: a conversation in the terminal."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated

from expertmesh.cli import options
from expertmesh.cli.ask import print_stream
from expertmesh.client.gateway import GatewayClient, Sampling
from expertmesh.errors import InvalidRequestError

HELP = "Type a message; /reset forgets the conversation, /exit or Ctrl-D ends it, Ctrl-C stops an answer."


def chat(
    system: Annotated[
        str | None,
        options.flag(options.MODEL, "SYSTEM", "Text that stands before the first message.", show_default=False),
    ] = None,
    endpoint: options.Endpoint = options.DEFAULT_GATEWAY,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    seed: options.Seed = None,
) -> None:
    """Talk to a gateway; the conversation is kept and sent with every message."""
    sampling = Sampling(max_tokens, temperature, top_k, top_p, repetition_penalty, seed)
    opening = [("system", system)] if system else []
    _enable_line_editing()
    # The loop runs only while an answer comes: at the prompt Ctrl-C is an ordinary KeyboardInterrupt.
    with asyncio.Runner() as runner, _open_client(runner, endpoint) as client:
        name = runner.run(client.model_info()).name
        print(f"{name} at {endpoint}. {HELP}", file=sys.stderr)
        history = list(opening)
        while (text := _read_line()) not in (None, "/exit"):
            if text == "/reset":
                history = list(opening)
            elif text:
                history = _take_turn(runner, client, history, text, sampling)


@contextmanager
def _open_client(runner: asyncio.Runner, endpoint: str) -> Iterator[GatewayClient]:
    async def connect() -> GatewayClient:
        return GatewayClient(endpoint)

    client = runner.run(connect())
    try:
        yield client
    finally:
        runner.run(client.close())


def _take_turn(
    runner: asyncio.Runner, client: GatewayClient, history: list[tuple[str, str]], text: str, sampling: Sampling
) -> list[tuple[str, str]]:
    """Ask and print; return the longer history, or the old one if there was no whole answer."""
    asked = [*history, ("user", text)]
    try:
        answer = runner.run(print_stream(client.chat(asked, sampling)))
    except InvalidRequestError as error:
        print(f"error: {error}", file=sys.stderr)
        return history
    except KeyboardInterrupt:
        print(" (stopped)", file=sys.stderr)
        return history
    return [*asked, ("assistant", answer)]


def _enable_line_editing() -> None:
    """Give ``input`` arrow keys and a history, where Python was built with readline."""
    with suppress(ImportError):
        import readline  # noqa: F401


def _read_line() -> str | None:
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None
