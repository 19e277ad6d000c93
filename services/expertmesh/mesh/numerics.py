"""Which replicas compute the same bits. Knows what servers say of themselves, not what they compute."""

from collections.abc import Iterable

from expertmesh.errors import ExpertmeshError
from expertmesh.mesh.replica import Replica
from expertmesh.wire.info import ServerInfo

PLAIN_FORMATS = frozenset({"float32", "float16", "bfloat16"})


class NumericsMismatchError(ExpertmeshError):
    """A replica would answer with other bits than those that host the same expert."""


def numerics_of(info: ServerInfo) -> str:
    """Name what the bits of a server's answers depend on, beside its weights.

    Products of codes are integers, with the same bits on all instruction sets; those of plain weights may differ.
    """
    isa = f" {info.isa}" if info.isa and info.weight_format in PLAIN_FORMATS else ""
    return f"{info.backend}{isa}{'' if info.deterministic else ', not deterministic'}"


def check_numerics(replica: Replica, info: ServerInfo, others: Iterable[Replica]) -> None:
    """Raise NumericsMismatchError when another connected replica of one of its experts computes other bits."""
    mine = numerics_of(info)
    for other in others:
        shared = sorted(other.experts.intersection(info.experts))
        if other is not replica and other.is_ready and shared and other.numerics != mine:
            raise NumericsMismatchError(
                f"{replica.endpoint} computes on {mine}, {other.endpoint} on {other.numerics}, and both host experts "
                f"{shared}, so the same request could give another text; start both alike, or let the gateway mix them "
                "(--allow-mixed-numerics)"
            )
