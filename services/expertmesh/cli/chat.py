"""``expertmesh chat``: a conversation in the terminal."""

import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Annotated

from expertmesh.cli import options
from expertmesh.cli.ask import print_stream, read_output
from expertmesh.client import Client, Piece, Sampling
from expertmesh.errors import GatewayBusyError, InvalidRequestError
from expertmesh.settings.flags import MODEL

HELP = "Type a message; /reset forgets the conversation, /exit or Ctrl-D ends it, Ctrl-C stops an answer."

History = list[tuple[str, str]]


def chat(
    system: Annotated[
        str | None,
        options.flag(MODEL, "SYSTEM", "Text that stands before the first message.", show_default=False),
    ] = None,
    endpoint: options.Endpoint = options.DEFAULT_GATEWAY,
    api_key: options.ClientKey = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    seed: options.Seed = None,
    stop: options.Stop = None,
    json_schema: options.JsonSchema = None,
) -> None:
    """Talk to a gateway; the conversation is kept and sent with every message."""
    sampling = Sampling(max_tokens, temperature, top_k, top_p, repetition_penalty, seed, min_p=min_p)
    output = read_output(stop, json_schema)
    _enable_line_editing()
    with Client(endpoint, api_key=api_key) as client:
        print(f"{client.model_info().name} at {endpoint}. {HELP}", file=sys.stderr)
        _converse([("system", system)] if system else [], lambda asked: client.chat(asked, sampling, output))


def _converse(opening: History, ask: Callable[[History], Iterable[Piece]]) -> None:
    """Read messages and print answers until the person leaves."""
    history = list(opening)
    while (text := _read_line()) not in (None, "/exit"):
        if text == "/reset":
            history = list(opening)
        elif text:
            history = _take_turn([*history, ("user", text)], ask) or history


def _take_turn(asked: History, ask: Callable[[History], Iterable[Piece]]) -> History | None:
    """Ask and print; return the longer history, or None if there was no whole answer."""
    try:
        answer = print_stream(ask(asked))
    except (InvalidRequestError, GatewayBusyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return None
    except KeyboardInterrupt:
        print(" (stopped)", file=sys.stderr)
        return None
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
