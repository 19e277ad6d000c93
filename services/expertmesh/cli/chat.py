"""``expertmesh chat``: a conversation in the terminal."""

import sys
from collections.abc import Callable, Iterable
from typing import Annotated

from expertmesh.cli import options
from expertmesh.cli.ask import print_stream, read_output
from expertmesh.cli.message_reader import message_reader
from expertmesh.client import Client, ClientTls, Piece, Sampling
from expertmesh.errors import GatewayBusyError, InvalidRequestError
from expertmesh.settings.flags import MODEL

HELP = (
    "Type or paste a message; Ctrl-C stops an answer or forgets a line, /reset forgets the conversation, "
    "/exit or Ctrl-D ends it."
)

History = list[tuple[str, str]]


def chat(
    system: Annotated[
        str | None,
        options.flag(MODEL, "SYSTEM", "Text that stands before the first message.", show_default=False),
    ] = None,
    endpoint: options.Endpoint = options.DEFAULT_GATEWAY,
    api_key: options.ClientKey = None,
    ca: options.Ca = None,
    cert: options.Cert = None,
    key: options.Key = None,
    server_name: options.ServerName = None,
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
    with Client(endpoint, api_key=api_key, tls=ClientTls(ca, cert, key, server_name)) as client:
        print(f"{client.model_info().name} at {endpoint}. {HELP}", file=sys.stderr)
        _converse([("system", system)] if system else [], lambda asked: client.chat(asked, sampling, output))


def _converse(opening: History, ask: Callable[[History], Iterable[Piece]]) -> None:
    """Read messages and print answers until the person leaves."""
    history, read_message = list(opening), message_reader()
    while (text := read_message()) not in (None, "/exit"):
        if text == "/reset":
            history = list(opening)
        elif text:
            history = _take_turn([*history, ("user", text)], ask) or history


def _take_turn(asked: History, ask: Callable[[History], Iterable[Piece]]) -> History | None:
    """Ask and print; return the longer history, or None if nothing was answered."""
    said: list[str] = []
    try:
        print_stream(ask(asked), said)
    except (InvalidRequestError, GatewayBusyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return None
    except KeyboardInterrupt:
        print(" (stopped)", file=sys.stderr)
    return [*asked, ("assistant", "".join(said))] if said else None
