"""Which replicas hold the same weights, byte for byte. Knows what servers say of themselves, not what they hold."""

from collections.abc import Iterable, Mapping

from expertmesh.errors import FingerprintMismatchError
from expertmesh.mesh.replica import Replica
from expertmesh.wire.info import ServerInfo


class WeightsMismatchError(FingerprintMismatchError):
    """A replica holds other bytes of an expert than those that host it already."""


def digests_of(info: ServerInfo) -> Mapping[int, str]:
    """Return the digests of a server's experts, of all or of none."""
    return dict(zip(info.experts, info.expert_digests, strict=bool(info.expert_digests)))


def check_weights(replica: Replica, info: ServerInfo, others: Iterable[Replica]) -> None:
    """Raise WeightsMismatchError when another connected replica of an expert has hashed other bytes of it."""
    for expert, digest in digests_of(info).items():
        for other in others:
            found = other.digests.get(expert, digest)
            if other is not replica and other.is_ready and found != digest:
                raise WeightsMismatchError(
                    f"{replica.endpoint} holds expert {expert} of SHA-256 {digest}, {other.endpoint} of {found}: the "
                    "files of one of them are damaged or of another model; `expertmesh inspect --verify` tells for a "
                    "split checkpoint"
                )
