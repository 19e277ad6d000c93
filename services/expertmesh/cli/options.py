"""Flags of the commands: those that fill settings, and those that several commands have besides."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from expertmesh.gateway.config import GatewayConfig
from expertmesh.model.sampling import PARAMETERS, SamplingParams
from expertmesh.settings.flags import NETWORK, REQUIRED, TLS, Flag, flags_of

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
                annotation=Annotated[one.kind, option(one)],
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


def option(one: Flag) -> Any:
    """Describe a flag that fills a setting."""
    name, has_default = f"--{one.name.replace('_', '-')}", one.default not in (None, "")
    return flag(one.panel, one.env, one.text, name, min=one.min, max=one.max, show_default=has_default)


def sampling(name: str, text: str = "", unset: str = "") -> Any:
    """Describe the flag of a sampling parameter, and what counts without it: ``unset`` or the parameter's default."""
    parameter = PARAMETERS[name]
    default = unset or "the model's, else " * parameter.is_suggested + f"{getattr(SamplingParams, name):g}"
    return flag(SAMPLING, name.upper(), f"{text or parameter.text} Default: {default}.", show_default=False)


Device = Annotated[str, option(flags_of(GatewayConfig)["device"])]
Endpoint = Annotated[str, flag(NETWORK, "ENDPOINT", "Gateway to ask, host:port.", "--endpoint")]


def _first_key(context: typer.Context, parameter: typer.CallbackParam, key: str | None) -> str | None:
    """Take the first key of the variable, which a gateway reads all the keys from that it admits."""
    is_variable = context.get_parameter_source(str(parameter.name)).name == "ENVIRONMENT"  # type: ignore[union-attr]
    return next(iter(key.split()), None) if key and is_variable else key


ClientKey = Annotated[
    str | None,
    flag(NETWORK, "API_KEY", "Key to present to the gateway.", "--api-key", show_default=False, callback=_first_key),
]

Ca = Annotated[
    Path | None,
    flag(TLS, "CA", "Call over TLS, and trust the authorities in this PEM file. Default: no TLS.", show_default=False),
]
Cert = Annotated[
    Path | None,
    flag(TLS, "CERT", "PEM file of a certificate to show, where the gateway wants one.", show_default=False),
]
Key = Annotated[Path | None, flag(TLS, "KEY", "PEM file of its key.", show_default=False)]
ServerName = Annotated[
    str | None,
    flag(TLS, "SERVER_NAME", "Name that the gateway's certificate has. Default: the host called.", show_default=False),
]

MaxTokens = Annotated[int | None, sampling("max_tokens", unset="what is left of the context")]
Temperature = Annotated[float | None, sampling("temperature")]
TopK = Annotated[int | None, sampling("top_k")]
TopP = Annotated[float | None, sampling("top_p")]
MinP = Annotated[float | None, sampling("min_p", "Keep tokens at least p times as probable as the most probable one.")]
RepetitionPenalty = Annotated[float | None, sampling("repetition_penalty", "Above 1: avoid tokens already seen.")]
Seed = Annotated[int | None, sampling("seed", unset="random")]
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

WithParent = Annotated[bool, typer.Option("--with-parent", hidden=True, help="End when the parent process ends.")]
