"""Latency and throughput under load, of expertmesh and of any server of the OpenAI HTTP API.

Usage: python benchmarks/serve.py (--clients N | --rate R | --small) [--url NAME=URL]...
    [--expertmesh DIR [--up-flags FLAGS]]
    [--llama-server PROGRAM --gguf FILE [--llama-flags FLAGS]] [--requests N] [--prompt-tokens LENGTHS]
    [--output-tokens LENGTHS] [--shared-prefix SHARE] [--words TOKENIZER] [--slo-ttft S] [--slo-tpot S] [--seed N]
    [--json FILE] [--plot FILE]

Closed loop (each of N clients sends its next request when it has its answer) or Poisson arrivals (R a second, whatever
is still running). The servers get the same requests, one server after the other: those given by URL as they are; those
started here are stopped again before the next one starts. Answers are streamed and greedy.

LENGTHS is N, LOW:HIGH (uniform) or lognormal:MEDIAN:SIGMA. Prompts are token ids, so that every server counts the same;
for a server that takes none, --words makes them of words that are one token each in a tokenizer.model.

``expertmesh bench`` asks one server that is there already; this compares several, and starts them.

--small puts two clients with short requests on the demo model, where nothing else is said.
"""

import argparse
import shlex
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from report import parse_arguments, show
from serving.compare import Objective, compare
from serving.put import put
from serving.servers import FULL_LENGTH, Expertmesh, LlamaServer, started
from serving.words import single_token_words

from expertmesh.errors import ConfigError
from expertmesh.loadgen.client import Target
from expertmesh.loadgen.lengths import parse_lengths
from expertmesh.loadgen.load import Load
from expertmesh.loadgen.plot import check_can_plot, plot
from expertmesh.loadgen.prompts import RandomPrompts, TokenIds

DEMO = Path(__file__).parents[1] / "examples" / "tiny-mixtral" / "awq"
SMALL = {"requests": 4, "warmup": 1, "prompt_tokens": "8", "output_tokens": "8", "token_ids": "10:400"}


def targets(arguments: argparse.Namespace) -> Iterator[AbstractContextManager[Target]]:
    """List the servers; each answers inside its ``with``."""
    if arguments.expertmesh:
        yield started(Expertmesh(arguments.expertmesh, tuple(shlex.split(arguments.up_flags))))
    if arguments.llama_server:
        slots = arguments.clients or arguments.llama_slots
        longest = arguments.prompt_tokens.longest + arguments.output_tokens.longest
        flags = tuple(shlex.split(arguments.llama_flags))
        yield started(LlamaServer(arguments.llama_server, arguments.gguf, slots, longest, flags))
    for name, url in arguments.url:
        fields = {} if arguments.plain else FULL_LENGTH
        yield nullcontext(Target(name, url, arguments.api_key, fields=fields))


def named_url(text: str) -> tuple[str, str]:
    """Read NAME=URL."""
    name, separator, url = text.partition("=")
    if not (separator and name and url.startswith(("http://", "https://"))):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=URL, for example peer=http://127.0.0.1:8080")
    return name, url


def id_range(text: str) -> TokenIds:
    """Read FIRST:END."""
    first, _, end = text.partition(":")
    return TokenIds(range(int(first), int(end)))


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the flags."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if arguments.small:
        clients, model = (None if arguments.rate else 2), (None if has_server(arguments) else DEMO)
        parser.set_defaults(**SMALL, clients=clients, expertmesh=model)
        arguments = parser.parse_args(argv)
    check(parser, arguments)
    return arguments


def make_parser() -> argparse.ArgumentParser:
    """Name the flags."""
    parser = parse_arguments(__doc__)
    parser.add_argument("--url", action="append", default=[], type=named_url, metavar="NAME=URL", help="a server")
    parser.add_argument("--api-key", help="of the servers given by URL")
    parser.add_argument("--plain", action="store_true", help="send servers given by URL only fields of OpenAI's API")
    parser.add_argument("--expertmesh", type=Path, metavar="DIR", help="start expertmesh up with this checkpoint")
    parser.add_argument("--up-flags", default="", help="further flags of expertmesh up, in one string")
    parser.add_argument("--llama-server", type=Path, metavar="PROGRAM", help="see peers/build_llama_server.sh")
    parser.add_argument("--gguf", type=Path, help="the model of --llama-server")
    parser.add_argument("--llama-flags", default="", help="further flags of llama-server, in one string")
    parser.add_argument("--llama-slots", type=int, default=32, help="batch of llama-server under --rate")
    pacing = parser.add_mutually_exclusive_group()
    pacing.add_argument("--clients", type=int, help="closed loop with so many clients")
    pacing.add_argument("--rate", type=float, help="Poisson arrivals, requests per second")
    parser.add_argument("--requests", type=int, default=64, help="how many are measured")
    parser.add_argument("--warmup", type=int, default=4, help="how many are sent before, and not measured")
    parser.add_argument("--prompt-tokens", type=parse_lengths, default="128", metavar="LENGTHS")
    parser.add_argument("--output-tokens", type=parse_lengths, default="64", metavar="LENGTHS")
    parser.add_argument("--shared-prefix", type=float, default=0.0, metavar="SHARE", help="what all prompts begin with")
    parser.add_argument("--token-ids", type=id_range, default="1000:32000", metavar="FIRST:END", help="of prompts")
    parser.add_argument("--words", type=Path, metavar="TOKENIZER", help="text prompts; see above")
    parser.add_argument("--slo-ttft", type=float, default=5.0, help="seconds that an answer in time may take")
    parser.add_argument("--slo-tpot", type=float, default=0.5, help="seconds per token that it may take")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="write a PNG (needs the extra bench)")
    return parser


def has_server(arguments: argparse.Namespace) -> bool:
    """Whether there is anyone to ask."""
    return bool(arguments.url or arguments.expertmesh or arguments.llama_server)


def check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Refuse flags that leave nothing to do."""
    if not has_server(arguments):
        parser.error("give a server: --url, --expertmesh or --llama-server")
    if arguments.llama_server and not arguments.gguf:
        parser.error("--llama-server needs --gguf")
    if arguments.clients is None and arguments.rate is None:
        parser.error("give a rhythm: --clients or --rate")
    numbers = (arguments.requests, arguments.clients, arguments.rate)
    if any(number is not None and number <= 0 for number in numbers):
        parser.error("--requests, --clients and --rate are positive numbers")
    if not 0 <= arguments.shared_prefix <= 1:
        parser.error("--shared-prefix is from 0 to 1")
    if arguments.plot:
        try:
            check_can_plot()
        except ConfigError as error:
            parser.error(str(error))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and report."""
    arguments = parse(argv)
    pieces = single_token_words(arguments.words) if arguments.words else arguments.token_ids
    load = Load(
        prompts=RandomPrompts(pieces, arguments.prompt_tokens, arguments.shared_prefix),
        output_tokens=arguments.output_tokens,
        num_requests=arguments.requests,
        num_clients=arguments.clients,
        rate=arguments.rate,
        seed=arguments.seed,
    )
    runs = []
    for server in targets(arguments):
        with server as target:
            runs.append(put(load, target, arguments.warmup))
    objective = Objective(arguments.slo_ttft, arguments.slo_tpot)
    show(f"under load: {load}", compare(runs[0].name, runs, objective), arguments.json)
    if arguments.plot:
        plot(str(load), runs, arguments.plot)


if __name__ == "__main__":
    main()
