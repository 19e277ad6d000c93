"""How a gateway is at one moment, for everybody who tells it to somebody. Knows values, not the parts that count."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from expertmesh.engine.snapshot import EngineSnapshot
from expertmesh.mesh.snapshot import MeshSnapshot


@dataclass(frozen=True)
class Snapshot:
    """What engine and mesh have counted; msgspec encodes it and decodes an equal one.

    ``num_refused`` are callers that the API processes sent away, by the value of their ``Refusal``.
    """

    engine: EngineSnapshot
    mesh: MeshSnapshot
    num_refused: Mapping[str, int]


class SnapshotSource(Protocol):
    """Whoever can be asked how the gateway is."""

    async def snapshot(self) -> Snapshot:
        """Return the last that is known."""
        ...
