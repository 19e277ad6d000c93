"""``expertmesh inspect``: what a checkpoint holds."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from expertmesh.cli import options
from expertmesh.cli.places import count_kinds
from expertmesh.errors import CheckpointError
from expertmesh.settings.flags import MODEL

# Memory of common GPUs.
MEMORY_SIZES_GB = (8, 12, 16, 24, 40, 48, 80)


def inspect(
    directory: Annotated[Path, typer.Argument(help="Directory of the checkpoint.", show_default=False)],
    verify: Annotated[
        bool,
        options.flag(MODEL, "VERIFY", "First hash the files of a split checkpoint against its index.", "--verify"),
    ] = False,
) -> None:
    """Show architecture, format and bytes of a checkpoint, per expert and for the gateway, and what fits in memory.

    Also on the GPUs of this machine.
    """
    from expertmesh.checkpoint.fingerprint import fingerprint
    from expertmesh.checkpoint.reader import Checkpoint
    from expertmesh.checkpoint.shards import find_damaged
    from expertmesh.checkpoint.summary import experts_that_fit, summarize
    from expertmesh.kernels import cuda_devices

    checkpoint = Checkpoint.open(directory)
    if verify and (damaged := find_damaged(checkpoint)):
        raise CheckpointError(f"{directory}: {', '.join(damaged)} differ from what was written; split again")
    config, summary, gpus = checkpoint.model, summarize(checkpoint), cuda_devices.find_devices()
    facts = {
        "architecture": config.architecture,
        "format": summary.weight_format,
        "fingerprint": fingerprint(checkpoint),
        "layers": config.num_layers,
        "hidden, FFN": f"{config.hidden_size}, {config.intermediate_size}",
        "heads": f"{config.num_heads} query, {config.num_kv_heads} key-value, width {config.head_dim}",
        "experts": f"{config.num_experts}, {config.num_experts_per_token} chosen per token",
        "vocabulary": config.vocab_size,
        "context": f"{config.max_position_embeddings} tokens",
        "tensors": summary.num_tensors,
        "all weights": _format_bytes(summary.total_bytes),
        "gateway": _format_bytes(summary.gateway_bytes),
        **{f"expert {expert}": _format_bytes(size) for expert, size in enumerate(summary.expert_bytes)},
        **{f"fit in {size} GB": f"{experts_that_fit(summary, size * 10**9)} experts" for size in MEMORY_SIZES_GB},
        "GPUs here": count_kinds(found.kind for found in gpus) or "none",
        **{f"fit on {found.kind}": f"{experts_that_fit(summary, found.memory_bytes)} experts" for found in gpus},
    }
    table = Table(title=str(directory), show_header=False, title_justify="left")
    for name, value in facts.items():
        table.add_row(name, str(value))
    Console().print(table)


def _format_bytes(count: int) -> str:
    size, units = float(count), ["B", "KB", "MB", "GB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.4g} {units[0]}"
