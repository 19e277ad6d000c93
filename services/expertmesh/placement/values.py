"""A plan as values of the Helm chart. Knows their names, not how a plan was made."""

import json
from collections.abc import Container, Sequence
from itertools import chain, count

from expertmesh.placement.planner import Group

# Nodes carry it with the name of their GPU, so that a group finds the kind that was planned for it.
NODE_LABEL = "expertmesh.dev/gpu"


def to_values(groups: Sequence[Group], num_experts: int) -> str:
    """Write the expert groups of a plan as a values file, in JSON, which is YAML too."""
    named: dict[str, object] = {}
    for group in groups:
        named[_name(group, named)] = {
            "experts": ",".join(map(str, group.experts)),
            "replicas": group.replicas,
            "gpu": {"count": 1},
            "nodeSelector": {NODE_LABEL: group.offer.gpu.name},
        }
    values = {"model": {"numExperts": num_experts}, "experts": {"groups": named}}
    return json.dumps(values, indent=2) + "\n"


def _name(group: Group, named: Container[str]) -> str:
    """Name a group by its first expert, with a number behind where that name is taken."""
    name = f"e{group.experts[0]}"
    return next(free for free in chain((name,), (f"{name}-{number}" for number in count(2))) if free not in named)
