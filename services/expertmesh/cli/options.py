"""Flags of the commands: those that fill settings, and those that several commands have besides."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from expertmesh.gateway.config import GatewayConfig
from expertmesh.settings.flags import NETWORK, REQUIRED, Flag, flags_of

CommandT = TypeVar("CommandT", bound=Callable[..., None])

SAMPLING = "Sampling"
DEFAULT_GATEWAY = GatewayConfig.listen


def flag(panel: str, env: str, text: str, *names: str, **more: Any) -> Any:
    """Describe a flag: its group in ``--help``, its environment variable without EXPERTMESH_, and what it does."""
    return typer.Option(*names, envvar=f"EXPERTMESH_{env}", help=text, rich_help_panel=panel, **more)


def takes(flags: Mapping[str, Flag]) -> Callable[[CommandT], CommandT]:
    """Give a command these flags; it gets their values by name, beside what it says itself that it takes."""

    def declare(command: CommandT) -> CommandT:
        declared = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if one.default is REQUIRED else one.default,
                annotation=annotate(one),
            )
            for name, one in flags.items()
        ]
        own = inspect.signature(command).parameters.values()
        undeclared = [one for one in own if one.kind is one.KEYWORD_ONLY and one.name not in flags]
        parameters = [*declared, *undeclared]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return declare


def annotate(one: Flag) -> Any:
    """Turn a flag into the type of a command's parameter."""
    name, has_default = f"--{one.name.replace('_', '-')}", one.default not in (None, "")
    return Annotated[
        one.kind, flag(one.panel, one.env, one.text, name, min=one.min, max=one.max, show_default=has_default)
    ]


Device = annotate(flags_of(GatewayConfig)["device"])
Endpoint = Annotated[str, flag(NETWORK, "ENDPOINT", "Gateway to ask, host:port.", "--endpoint")]

ClientKey = Annotated[
    str | None,
    flag(NETWORK, "API_KEY", "Key to present to the gateway.", "--api-key", show_default=False),
]

MaxTokens = Annotated[
    int | None,
    flag(
        SAMPLING, "MAX_TOKENS", "Tokens to produce at most. Default: what is left of the context.", show_default=False
    ),
]
Temperature = Annotated[
    float | None,
    flag(
        SAMPLING,
        "TEMPERATURE",
        "0 = always the most probable token. Default: the model's, else 0.",
        show_default=False,
    ),
]
TopK = Annotated[
    int | None,
    flag(
        SAMPLING, "TOP_K", "Keep the k most probable tokens; 0 = all. Default: the model's, else 0.", show_default=False
    ),
]
TopP = Annotated[
    float | None,
    flag(
        SAMPLING,
        "TOP_P",
        "Keep the most probable tokens that add up to p. Default: the model's, else 1.",
        show_default=False,
    ),
]
RepetitionPenalty = Annotated[
    float | None,
    flag(
        SAMPLING,
        "REPETITION_PENALTY",
        "Above 1: avoid tokens already seen. Default: the model's, else 1.",
        show_default=False,
    ),
]
MinP = Annotated[
    float | None,
    flag(
        SAMPLING,
        "MIN_P",
        "Keep tokens at least p times as probable as the most probable one. Default: 0.",
        show_default=False,
    ),
]
Stop = Annotated[
    list[str] | None,
    flag(
        SAMPLING,
        "STOP",
        "Text that ends the answer and is not part of it; may be repeated.",
        "--stop",
        show_default=False,
    ),
]
JsonSchema = Annotated[
    Path | None,
    flag(
        SAMPLING,
        "JSON_SCHEMA",
        "File with a JSON schema that the answer must be valid under.",
        show_default=False,
        exists=True,
        dir_okay=False,
    ),
]
Seed = Annotated[int | None, flag(SAMPLING, "SEED", "Makes sampling repeatable. Default: random.", show_default=False)]

WithParent = Annotated[bool, typer.Option("--with-parent", hidden=True, help="End when the parent process ends.")]
