"""``expertmesh plan``: which experts on which GPUs, how fast that is and what it costs."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from expertmesh.cli import options
from expertmesh.cli.places import count_kinds
from expertmesh.cli.ranges import format_ranges
from expertmesh.errors import ConfigError
from expertmesh.settings.flags import COMPUTE

if TYPE_CHECKING:
    from expertmesh.placement.estimate import Workload
    from expertmesh.placement.gpus import Offer
    from expertmesh.placement.planner import Plan, Room

DEMAND = "Demand"
OUTPUT = "Output"


def plan(
    directory: Annotated[
        Path, typer.Argument(help="Directory of the checkpoint, or its GGUF file.", show_default=False)
    ],
    gpu: Annotated[
        list[str] | None,
        options.flag(
            COMPUTE,
            "GPU",
            "GPUs for experts, NAME=COUNT@PRICE such as l4=4@0.80; a kind that is not known as "
            "NAME:MEMORY_GB:BANDWIDTH_GB:TERAFLOPS=COUNT@PRICE. May be repeated. Default: those of this machine.",
            show_default=False,
        ),
    ] = None,
    gateway_gpu: Annotated[
        str | None,
        options.flag(COMPUTE, "GATEWAY_GPU", "GPU of the gateway. Default: of the first kind.", show_default=False),
    ] = None,
    sequences: Annotated[int, options.flag(DEMAND, "SEQUENCES", "Sequences that decode at the same time.", min=1)] = 32,
    context: Annotated[int, options.flag(DEMAND, "CONTEXT", "Tokens of each of them, on average.", min=0)] = 1024,
    tokens_per_second: Annotated[
        float,
        options.flag(DEMAND, "TOKENS_PER_SECOND", "Speed to reach over all; 0 = the cheapest plan.", min=0),
    ] = 0.0,
    endpoint: Annotated[
        str | None,
        options.flag(
            DEMAND,
            "ENDPOINT",
            "Gateway whose measured expert loads count, host:port. Default: even loads.",
            "--endpoint",
            show_default=False,
        ),
    ] = None,
    api_key: options.ClientKey = None,
    loads: Annotated[
        str | None,
        options.flag(DEMAND, "LOADS", "Loads of the experts instead, such as 3,1,1,1,1,1,1,1.", show_default=False),
    ] = None,
    hop_ms: Annotated[
        float, options.flag(DEMAND, "HOP_MS", "Dispatch and combine of one layer, beside the kernels, ms.", min=0)
    ] = 1.3,
    efficiency: Annotated[
        float,
        options.flag(DEMAND, "EFFICIENCY", "Part of a GPU's bandwidth and speed that kernels reach.", min=0.01, max=1),
    ] = 0.6,
    values: Annotated[
        Path | None,
        options.flag(OUTPUT, "VALUES", "Write the expert groups as values of the Helm chart.", show_default=False),
    ] = None,
) -> None:
    """Propose expert groups and replicas for the GPUs at hand, and estimate tokens per second and price.

    The estimate follows the formula in docs/planning.md; it is no measurement.
    """
    from expertmesh.placement.gpus import parse_offer
    from expertmesh.placement.planner import choose, make_plans
    from expertmesh.placement.values import to_values

    offers = [parse_offer(text) for text in gpu] if gpu else _find_offers()
    gateway = parse_offer(gateway_gpu) if gateway_gpu else offers[0]
    workload, room = _read_workload(
        directory, _read_loads(endpoint, api_key, loads), sequences, context, hop_ms / 1000, efficiency
    )
    plans = make_plans(workload, offers, gateway, room)
    chosen = choose(plans, tokens_per_second)
    _show(plans, chosen)
    if values is not None:
        values.write_text(to_values(chosen.groups(), len(workload.shares)))


def _find_offers() -> "list[Offer]":
    """Offer the GPUs of this machine, and say what they are."""
    from expertmesh.kernels import cuda_devices
    from expertmesh.placement.gpus import offer_found

    found = cuda_devices.find_devices()
    offers = offer_found([(device.name, device.memory_bytes) for device in found])
    typer.echo(f"GPUs here: {count_kinds(device.kind for device in found)}")
    return offers


def _read_loads(endpoint: str | None, api_key: str | None, loads: str | None) -> tuple[float, ...] | None:
    """Return a load per expert, measured or given; None for even ones."""
    if endpoint is not None:
        return _measured_loads(endpoint, api_key)
    if loads is None:
        return None
    try:
        return tuple(float(load) for load in loads.split(","))
    except ValueError:
        raise ConfigError(f"--loads {loads!r} are not numbers with commas between, such as 3,1,1,1") from None


def _measured_loads(endpoint: str, api_key: str | None) -> tuple[float, ...]:
    from expertmesh.client import Client

    with Client(endpoint, api_key=api_key) as client:
        return tuple(float(expert.tokens) for expert in client.load().experts)


def _read_workload(
    directory: Path,
    loads: tuple[float, ...] | None,
    sequences: int,
    context: int,
    hop_seconds: float,
    efficiency: float,
) -> "tuple[Workload, Room]":
    import torch

    from expertmesh.checkpoint.reader import Checkpoint
    from expertmesh.checkpoint.summary import SERVER_BYTES, summarize
    from expertmesh.model.kv_cache import bytes_per_token
    from expertmesh.placement.estimate import Workload, to_shares
    from expertmesh.placement.planner import Room

    checkpoint = Checkpoint.open(directory)
    config, tensors, summary = checkpoint.model, checkpoint.tensors, summarize(checkpoint)
    table_bytes = 0 if config.is_embedding_tied else 2 * tensors.ends["embedding"].num_values
    workload = Workload(
        num_layers=config.num_layers,
        num_experts_per_token=config.num_experts_per_token,
        expert_bytes=max(summary.expert_memory_bytes) / config.num_layers,
        expert_params=sum(spec.num_values for spec in tensors.expert(0, 0).values()),
        # Of the embedding a step reads a row per token; the rest of the gateway's weights it reads whole.
        gateway_bytes=summary.gateway_memory_bytes - table_bytes,
        kv_bytes=bytes_per_token(config, torch.bfloat16),
        shares=to_shares(loads, config.num_experts),
        num_sequences=sequences,
        context=context,
        hop_seconds=hop_seconds,
        efficiency=efficiency,
    )
    return workload, Room(max(summary.expert_memory_bytes), SERVER_BYTES)


def _show(plans: "Sequence[Plan]", chosen: "Plan") -> None:
    console = Console()
    console.print(_plans_table(plans, chosen))
    console.print(_groups_table(chosen))
    console.print("Estimated by the formula of docs/planning.md, not measured.")


def _plans_table(plans: "Sequence[Plan]", chosen: "Plan") -> Table:
    table = Table(title="plans", title_justify="left")
    for column in ("", "expert GPUs", "tokens/s", "step", "price/h", "price per million tokens"):
        table.add_column(column, justify="right")
    for plan in plans:
        estimate = plan.estimate
        table.add_row(
            "→" if plan is chosen else "",
            ", ".join(f"{count} × {name}" for name, count in Counter(s.offer.gpu.name for s in plan.servers).items()),
            f"{estimate.tokens_per_second:.0f}",
            f"{1000 * estimate.step_seconds:.1f} ms",
            f"{estimate.price_per_hour:.2f}",
            f"{estimate.price_per_million_tokens:.2f}",
        )
    return table


def _groups_table(plan: "Plan") -> Table:
    table = Table(title="expert groups of the plan →", title_justify="left")
    for column in ("experts", "GPU", "replicas", "busy"):
        table.add_column(column)
    for group in plan.groups():
        table.add_row(
            format_ranges(group.experts), group.offer.gpu.name, str(group.replicas), f"{group.utilisation:.0%}"
        )
    return table
