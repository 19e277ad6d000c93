"""Why a replica did not answer, in words. Knows who reads them."""

from dataclasses import dataclass
from typing import Self

from expertmesh.errors import ExpertmeshError
from expertmesh.mesh.link import LinkLostError


@dataclass(frozen=True)
class Failure:
    """What callers are told, without an address of the mesh, and what is logged, a note of the error they get."""

    told: str
    logged: str

    @classmethod
    def of(cls, endpoint: str, error: ExpertmeshError) -> Self:
        """Describe how a call to the replica at ``endpoint`` failed."""
        is_lost = isinstance(error, LinkLostError)
        return cls("its replica was lost or did not answer in time" if is_lost else str(error), f"{endpoint}: {error}")
