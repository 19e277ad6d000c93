"""What a checkpoint holds, in numbers. Knows bytes by name, prints nothing."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from expertmesh.checkpoint.contents import Contents


@dataclass(frozen=True)
class CheckpointSummary:
    """Bytes on disk: of all tensors, of each expert over all layers, and of the rest, which the gateway loads.

    In memory it is more where codes are unpacked as they are read.
    """

    weight_format: str
    num_tensors: int
    total_bytes: int
    gateway_bytes: int
    expert_bytes: tuple[int, ...]
    gateway_memory_bytes: int
    expert_memory_bytes: tuple[int, ...]


# What a server takes beside its weights on a GPU: CUDA's context, workspaces, activations.
SERVER_BYTES = 1_500_000_000


def experts_that_fit(summary: CheckpointSummary, memory_bytes: int) -> int:
    """Tell how many experts one server can host in so much memory, all layers of each."""
    return min(len(summary.expert_bytes), max(0, memory_bytes - SERVER_BYTES) // max(summary.expert_memory_bytes))


def summarize(checkpoint: Contents) -> CheckpointSummary:
    """Add up the tensors of a checkpoint by who loads them; shards that are missing are not counted."""
    owners = _find_owners(checkpoint)
    by_expert: Counter[int] = Counter()
    gateway_bytes = 0
    for name, entry in checkpoint.files.entries.items():
        experts = _owners_of(name, owners)
        for expert in experts:
            by_expert[expert] += entry.num_bytes // len(experts)
        if not experts:
            gateway_bytes += entry.num_bytes
    tensors = checkpoint.tensors
    return CheckpointSummary(
        weight_format=checkpoint.weight_format,
        num_tensors=len(checkpoint.files.entries),
        total_bytes=gateway_bytes + by_expert.total(),
        gateway_bytes=gateway_bytes,
        expert_bytes=tuple(by_expert[expert] for expert in sorted(by_expert)),
        gateway_memory_bytes=gateway_bytes + sum(map(checkpoint.growth, tensors.of_gateway())),
        expert_memory_bytes=tuple(
            by_expert[expert] + sum(map(checkpoint.growth, tensors.of_expert(expert))) for expert in sorted(by_expert)
        ),
    )


def _owners_of(name: str, owners: Mapping[str, list[int]]) -> list[int]:
    """List the experts that a tensor belongs to.

    A fused one has the name of its matrices, others have ".weight", ".weight.absmax" and the like behind.
    """
    while name and name not in owners:
        name = name.rpartition(".")[0]
    return owners.get(name, [])


def _find_owners(checkpoint: Contents) -> Mapping[str, list[int]]:
    """List the experts that share what lies under a prefix; the two halves of a fused tensor count as one."""
    owners: defaultdict[str, list[int]] = defaultdict(list)
    for expert in range(checkpoint.model.num_experts):
        for prefix in {checkpoint.locate(spec).prefix for spec in checkpoint.tensors.of_expert(expert)}:
            owners[prefix].append(expert)
    return owners
