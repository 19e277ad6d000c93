"""A plan as values of the Helm chart. Knows their names, not how a plan was made."""

import json
from collections.abc import Sequence

from expertmesh.placement.planner import Group

# Nodes carry it with the name of their GPU, so that a group finds the kind that was planned for it.
NODE_LABEL = "expertmesh.dev/gpu"


def to_values(groups: Sequence[Group], num_experts: int) -> str:
    """Write the expert groups of a plan as a values file, in JSON, which is YAML too.

    The chart has a group for every expert by default: those that the plan does not use are set to null.
    """
    named: dict[str, object] = {f"e{expert}": None for expert in range(num_experts)}
    for group in groups:
        named[_name(group, named)] = {
            "experts": ",".join(map(str, group.experts)),
            "replicas": group.replicas,
            "gpu": {"count": 1},
            "nodeSelector": {NODE_LABEL: group.offer.gpu.name},
        }
    values = {"model": {"numExperts": num_experts}, "experts": {"groups": named}}
    return json.dumps(values, indent=2) + "\n"


def _name(group: Group, named: dict[str, object]) -> str:
    """Name a group by its first expert, with a letter behind where that name is taken."""
    name = f"e{group.experts[0]}"
    names = (name, *(name + letter for letter in "bcdefghijklmnop"))
    return next(free for free in names if named.get(free) is None)
