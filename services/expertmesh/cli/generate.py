"""``expertmesh generate``: one prompt, one answer."""

from typing import Annotated

import typer

from expertmesh.cli import options
from expertmesh.cli.ask import print_stream, read_output
from expertmesh.cli.standard_streams import read_input
from expertmesh.client import Client, ClientTls, Sampling
from expertmesh.settings.flags import MODEL


def generate(
    prompt: Annotated[str, typer.Argument(help="What to ask; - reads it from standard input.", show_default=False)],
    raw: Annotated[
        bool,
        options.flag(MODEL, "RAW", "Continue the text as it is, without the [INST] template.", "--raw"),
    ] = False,
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
    """Ask a gateway one thing and stream the answer to standard output."""
    text = read_input() if prompt == "-" else prompt
    sampling = Sampling(max_tokens, temperature, top_k, top_p, repetition_penalty, seed, min_p=min_p)
    output = read_output(stop, json_schema)
    with Client(endpoint, api_key=api_key, tls=ClientTls(ca, cert, key, server_name)) as client:
        print_stream(client.generate(text, sampling, output) if raw else client.chat(text, sampling, output))
