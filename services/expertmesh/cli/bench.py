"""``expertmesh bench``: a server of OpenAI's HTTP API under load. Knows flags; loadgen/ asks, bench_view.py draws."""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from expertmesh.cli import exit_codes, options
from expertmesh.cli.bench_view import Outcome, show, write_json
from expertmesh.cli.progress import progress_bar
from expertmesh.errors import ConfigError, GatewayError
from expertmesh.settings.flags import NETWORK
from expertmesh.settings.tls import ClientTls

if TYPE_CHECKING:
    from expertmesh.loadgen.client import Target
    from expertmesh.loadgen.lengths import Lengths
    from expertmesh.loadgen.load import Load
    from expertmesh.loadgen.prompts import Prompts

LOAD = "Load"
PROMPTS = "Prompts"
OUTPUT = "Output"
DEFAULT_CLIENTS = 8
DEFAULT_REQUESTS = 64
DEFAULT_PROMPT_TOKENS = "128"
HTTP_CLIENT = ("httpx", "httpx_sse")


def bench(
    url: Annotated[str, typer.Argument(help="The server, such as http://127.0.0.1:8000.", show_default=False)],
    clients: Annotated[
        int | None,
        options.flag(
            LOAD,
            "CLIENTS",
            f"Closed loop: so many clients, each with one request at a time. Default: {DEFAULT_CLIENTS}.",
            min=1,
            show_default=False,
        ),
    ] = None,
    rate: Annotated[
        float | None,
        options.flag(
            LOAD, "RATE", "Instead: Poisson arrivals, requests per second on average.", min=0.001, show_default=False
        ),
    ] = None,
    requests: Annotated[
        int | None,
        options.flag(
            LOAD,
            "REQUESTS",
            f"End after so many. Default: {DEFAULT_REQUESTS}, without --seconds.",
            min=1,
            show_default=False,
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        options.flag(
            LOAD,
            "SECONDS",
            "Send nothing more after so many seconds; what is sent is waited for.",
            min=0.1,
            show_default=False,
        ),
    ] = None,
    warmup: Annotated[int, options.flag(LOAD, "WARMUP", "Requests before, which are not measured.", min=0)] = 4,
    prompt_tokens: Annotated[
        str | None,
        options.flag(
            PROMPTS,
            "PROMPT_TOKENS",
            "Length of the prompts, of random words: N, LOW:HIGH (uniform) or lognormal:MEDIAN:SIGMA. "
            f"In words where the server has no /tokenize. Default: {DEFAULT_PROMPT_TOKENS}.",
            show_default=False,
        ),
    ] = None,
    shared_prefix: Annotated[
        float,
        options.flag(PROMPTS, "SHARED_PREFIX", "Share of each random prompt that all begin with.", min=0, max=1),
    ] = 0.0,
    prompts: Annotated[
        Path | None,
        options.flag(
            PROMPTS,
            "PROMPTS",
            'File of prompts instead, one per line; per line {"prompt": TEXT} in a .jsonl file.',
            show_default=False,
        ),
    ] = None,
    max_tokens: Annotated[
        str, options.flag(PROMPTS, "MAX_TOKENS", "Tokens of an answer at most, as --prompt-tokens.")
    ] = "64",
    ignore_eos: Annotated[
        bool,
        options.flag(
            PROMPTS, "IGNORE_EOS", "No answer ends before that; OpenAI's API has no such thing.", "--ignore-eos"
        ),
    ] = False,
    seed: Annotated[int, options.flag(PROMPTS, "SEED", "Equal seeds make equal requests.")] = 0,
    model: Annotated[
        str | None,
        options.flag(
            NETWORK,
            "MODEL_NAME",
            "Model to ask for. Default: the first that the server lists.",
            "--model",
            show_default=False,
        ),
    ] = None,
    api_key: options.ClientKey = None,
    ca: options.Ca = None,
    cert: options.Cert = None,
    key: options.Key = None,
    json_file: Annotated[
        Path | None,
        options.flag(
            OUTPUT, "JSON_FILE", "Write the figures for programs.", "--json", dir_okay=False, show_default=False
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        options.flag(
            OUTPUT, "PLOT", "Write a PNG of how times are spread; needs matplotlib.", dir_okay=False, show_default=False
        ),
    ] = None,
) -> None:
    """Measure latency and throughput of any server of OpenAI's HTTP API under load.

    Answers of /v1/completions are streamed and greedy. Ctrl-C ends early and shows what there is by then.
    """
    _check_tools(plot)
    _check_flags(clients, rate, prompts, prompt_tokens or shared_prefix)
    _check_finite({"--rate": rate, "--seconds": seconds})
    _check_places(json_file, plot)
    from expertmesh.loadgen.client import Target
    from expertmesh.loadgen.load import Load
    from expertmesh.rpc.tls import open_client

    load = Load(
        prompts=_make_prompts(prompts, prompt_tokens or DEFAULT_PROMPT_TOKENS, shared_prefix),
        output_tokens=_read_lengths("--max-tokens", max_tokens),
        num_requests=requests or (None if seconds else DEFAULT_REQUESTS),
        num_clients=None if rate else clients or DEFAULT_CLIENTS,
        rate=rate,
        max_seconds=seconds or math.inf,
        seed=seed,
    )
    fields, tls = {"ignore_eos": True} if ignore_eos else {}, open_client(ClientTls(ca, cert, key))
    target = Target(url, url, api_key, model, fields, ssl_context=tls.http_context() if tls else None)
    _report(asyncio.run(_measure(target, load, warmup)), json_file, plot)


def _check_tools(plot: Path | None) -> None:
    """Refuse before the first import of what is not installed."""
    if missing := [name for name in HTTP_CLIENT if find_spec(name) is None]:
        raise ConfigError(f"expertmesh bench needs {', '.join(missing)}: pip install 'expertmesh[bench]'")
    from expertmesh.loadgen.plot import check_can_plot

    if plot is not None:
        check_can_plot()


def _check_flags(clients: int | None, rate: float | None, prompts: Path | None, random: object) -> None:
    if clients is not None and rate is not None:
        raise ConfigError(f"--clients {clients} and --rate {rate:g} are two rhythms; one of them would be right")
    if prompts is not None and random:
        raise ConfigError(
            f"--prompts {prompts} gives the prompts; --prompt-tokens and --shared-prefix are of random ones"
        )


def _check_finite(flags: Mapping[str, float | None]) -> None:
    for flag, value in flags.items():
        if value is not None and not math.isfinite(value):
            raise ConfigError(f"{flag} is {value}; a finite number would be right")


def _check_places(*files: Path | None) -> None:
    """Refuse to measure for a file that has no place."""
    for file in files:
        if file is not None and not file.parent.is_dir():
            raise ConfigError(f"{file}: {file.parent} is not a directory")


def _make_prompts(file: Path | None, lengths: str, shared_share: float) -> "Prompts":
    """Read the prompts, or make them of words until it is known which of these are tokens."""
    from expertmesh.loadgen.prompts import RandomPrompts, Words, read_prompts
    from expertmesh.loadgen.words import WORDS

    if file is not None:
        return read_prompts(file)
    return RandomPrompts(Words(WORDS), _read_lengths("--prompt-tokens", lengths), shared_share)


def _read_lengths(flag: str, text: str) -> "Lengths":
    from expertmesh.loadgen.lengths import parse_lengths

    try:
        return parse_lengths(text)
    except ValueError as error:
        raise ConfigError(f"{flag}: {error}") from error


async def _measure(target: "Target", load: "Load", num_warmup: int) -> Outcome:
    """Put the load on the server; a Ctrl-C once the first request is measured ends only that."""
    from expertmesh.loadgen.client import connected
    from expertmesh.loadgen.pacing import Recorder, measure
    from expertmesh.loadgen.words import count_in_tokens

    with progress_bar("measuring") as progress:
        recorder, is_interrupted = Recorder(lambda num_answers: progress(num_answers, load.num_requests)), False
        async with connected(target) as server:
            load = replace(load, prompts=await count_in_tokens(load.prompts, server))
            try:
                await measure(server, load, num_warmup, recorder)
            except asyncio.CancelledError:
                if not recorder.has_started:
                    raise
                is_interrupted = True
    return Outcome(server.model, load, recorder.run(target.url), is_interrupted)


def _report(outcome: Outcome, json_file: Path | None, plot_file: Path | None) -> None:
    """Show what was measured, write it where it is wanted, and end as it went."""
    from expertmesh.loadgen.plot import plot

    show(outcome)
    if json_file is not None:
        write_json(outcome, json_file)
    if plot_file is not None:
        plot(outcome.title, [outcome.run], plot_file)
    if outcome.is_interrupted:
        raise typer.Exit(exit_codes.INTERRUPTED)
    if not outcome.summary.num_answered:
        raise GatewayError(f"{outcome.run.name}: none of {outcome.summary.num_failed} requests was answered")
