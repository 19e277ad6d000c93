"""How a gateway is at one moment, for everybody who tells it to somebody. Knows values, not the parts that count."""

from dataclasses import dataclass
from typing import Protocol

from expertmesh.engine.snapshot import EngineSnapshot
from expertmesh.mesh.snapshot import MeshSnapshot


@dataclass(frozen=True)
class Snapshot:
    """What engine and mesh have counted; msgspec encodes it and decodes an equal one."""

    engine: EngineSnapshot
    mesh: MeshSnapshot


class SnapshotSource(Protocol):
    """Whoever can be asked how the gateway is."""

    async def snapshot(self) -> Snapshot:
        """Return the last that is known."""
        ...
