"""What a checkpoint holds, in numbers. Knows bytes by name, prints nothing."""

import re
from collections import Counter
from dataclasses import dataclass

from expertmesh.checkpoint.reader import Checkpoint

EXPERT_NAME = re.compile(r"\.experts\.(\d+)\.")


@dataclass(frozen=True)
class CheckpointSummary:
    """Bytes on disk: of all tensors, of each expert over all layers, and of the rest, which the gateway loads."""

    weight_format: str
    num_tensors: int
    total_bytes: int
    gateway_bytes: int
    expert_bytes: tuple[int, ...]


def summarize(checkpoint: Checkpoint) -> CheckpointSummary:
    """Add up the tensors of a checkpoint by who loads them."""
    by_expert: Counter[int] = Counter()
    gateway_bytes = 0
    for name, entry in checkpoint.files.entries.items():
        if match := EXPERT_NAME.search(name):
            by_expert[int(match[1])] += entry.num_bytes
        else:
            gateway_bytes += entry.num_bytes
    return CheckpointSummary(
        weight_format=checkpoint.weight_format,
        num_tensors=len(checkpoint.files.entries),
        total_bytes=gateway_bytes + by_expert.total(),
        gateway_bytes=gateway_bytes,
        expert_bytes=tuple(by_expert[expert] for expert in sorted(by_expert)),
    )
