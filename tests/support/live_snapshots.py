"""A source of snapshots without an engine process."""

from expertmesh.gateway.snapshot import Snapshot
from expertmesh.gateway.state import GatewayState, take_snapshot


class LiveSnapshots:
    """Takes a snapshot of what counts in this process whenever it is asked for one."""

    def __init__(self, state: GatewayState) -> None:
        self._state = state

    async def snapshot(self) -> Snapshot:
        return take_snapshot(self._state)
