"""``expertmesh inspect``: what a checkpoint holds."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from expertmesh.architectures.model_config import ModelConfig
from expertmesh.cli import options
from expertmesh.cli.places import count_kinds
from expertmesh.cli.ranges import format_ranges
from expertmesh.errors import CheckpointError, ConfigError
from expertmesh.settings.flags import MODEL

if TYPE_CHECKING:
    from expertmesh.checkpoint.summary import CheckpointSummary
    from expertmesh.kernels.cuda_devices import CudaDevice

# Memory of common GPUs.
MEMORY_SIZES_GB = (8, 12, 16, 24, 40, 48, 80)


def inspect(
    directory: Annotated[
        Path, typer.Argument(help="Directory of the checkpoint, or its GGUF file.", show_default=False)
    ],
    verify: Annotated[
        bool,
        options.flag(MODEL, "VERIFY", "First hash the files of a split checkpoint against its index.", "--verify"),
    ] = False,
    as_json: Annotated[
        bool,
        options.flag(MODEL, "JSON", "Print one JSON object, with sizes in bytes.", "--json"),
    ] = False,
) -> None:
    """Show architecture, format and bytes of a checkpoint, per expert and for the gateway, and what fits in memory.

    Also on the GPUs of this machine. What would keep every server from starting is an error here, too; what would keep
    only a gateway, which is the one that needs a tokenizer, is shown.
    """
    from expertmesh.checkpoint.fingerprint import fingerprint
    from expertmesh.checkpoint.shards import find_damaged
    from expertmesh.checkpoint.summary import summarize
    from expertmesh.gateway.servable import check_servable
    from expertmesh.kernels import cuda_devices

    contents = check_servable(directory)
    if verify and (damaged := find_damaged(contents)):
        raise CheckpointError(f"{directory}: {', '.join(damaged)} differ from what was written; split again")
    template, problem = _read_text(directory)
    gpus = cuda_devices.find_devices()
    found = Found(contents.model, fingerprint(contents), summarize(contents), gpus, template, problem)
    if as_json:
        typer.echo(json.dumps(_for_programs(found), indent=2))
    else:
        Console().print(_for_people(str(directory), found))


@dataclass(frozen=True)
class Found:
    """What was found in a directory, and the GPUs of this machine.

    ``template`` is the one that conversations are written in; without it ``text_problem`` says why there is none.
    """

    model: ModelConfig
    fingerprint: str
    summary: "CheckpointSummary"
    gpus: Sequence["CudaDevice"]
    template: str | None
    text_problem: str | None


def _read_text(directory: Path) -> tuple[str | None, str | None]:
    """Return which chat template a gateway would use, or why it could not start for want of text."""
    from expertmesh.gateway.config import GatewayConfig
    from expertmesh.gateway.text_files import read_text_files

    try:
        return read_text_files(GatewayConfig(model=directory)).reason, None
    except (CheckpointError, ConfigError) as error:
        return None, str(error)


def _for_programs(found: Found) -> dict[str, Any]:
    from expertmesh.checkpoint.summary import experts_that_fit

    numbers = {name: value for name, value in asdict(found.model).items() if isinstance(value, str | int | float)}
    gpus = [
        {
            "kind": gpu.kind,
            "memory_bytes": gpu.memory_bytes,
            "num_experts_that_fit": experts_that_fit(found.summary, gpu.memory_bytes),
        }
        for gpu in found.gpus
    ]
    text = {"chat_template": found.template, "text_problem": found.text_problem}
    return {**numbers, "fingerprint": found.fingerprint, **asdict(found.summary), **text, "gpus": gpus}


def _for_people(title: str, found: Found) -> Table:
    from expertmesh.checkpoint.summary import experts_that_fit

    config, summary, gpus = found.model, found.summary, found.gpus
    facts = {
        "architecture": config.architecture,
        "format": summary.weight_format,
        "fingerprint": found.fingerprint,
        "chat template": found.template or f"none, so no gateway can serve it: {found.text_problem}",
        "layers": config.num_layers,
        "hidden, FFN": f"{config.hidden_size}, {config.intermediate_size}",
        "heads": f"{config.num_heads} query, {config.num_kv_heads} key-value, width {config.head_dim}",
        "experts": f"{config.num_experts}, {config.num_experts_per_token} chosen per token",
        "vocabulary": config.vocab_size,
        "context": f"{config.max_position_embeddings} tokens",
        "tensors": summary.num_tensors,
        "all weights": _format_bytes(summary.total_bytes),
        "gateway": _format_sizes(summary.gateway_bytes, summary.gateway_memory_bytes),
        **_sizes_of_experts(list(zip(summary.expert_bytes, summary.expert_memory_bytes, strict=True))),
        **{f"fit in {size} GB": f"{experts_that_fit(summary, size * 10**9)} experts" for size in MEMORY_SIZES_GB},
        "GPUs here": count_kinds(gpu.kind for gpu in gpus) or "none",
        **{f"fit on {gpu.kind}": f"{experts_that_fit(summary, gpu.memory_bytes)} experts" for gpu in gpus},
    }
    table = Table(title=title, show_header=False, title_justify="left")
    for name, value in facts.items():
        table.add_row(name, str(value))
    return table


def _sizes_of_experts(expert_sizes: Sequence[tuple[int, int]]) -> dict[str, str]:
    """Say how many bytes each expert has, stored and in memory, those of one size in a line."""
    alike: dict[tuple[int, int], list[int]] = {}
    for expert, sizes in enumerate(expert_sizes):
        alike.setdefault(sizes, []).append(expert)
    return {
        f"expert {experts[0]}" if len(experts) == 1 else f"experts {format_ranges(tuple(experts))}": (
            _format_sizes(*sizes) + (" each" if len(experts) > 1 else "")
        )
        for sizes, experts in alike.items()
    }


def _format_sizes(stored: int, in_memory: int) -> str:
    shown = _format_bytes(stored)
    return shown if in_memory == stored else f"{shown}, in memory {_format_bytes(in_memory)}"


def _format_bytes(count: int) -> str:
    size, units = float(count), ["B", "KB", "MB", "GB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.4g} {units[0]}"
