"""Remote experts over real links to real expert servers, and steps for them."""

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from link_server import FINGERPRINT, NUM_EXPERTS, NUM_LAYERS, make_call
from waiting import wait_until

from expertmesh.mesh.direct_link import DirectLink
from expertmesh.mesh.dispatch_config import DispatchConfig
from expertmesh.mesh.dispatcher import RemoteExperts
from expertmesh.mesh.expert_load import ExpertLoadCounter
from expertmesh.mesh.open_link import open_link
from expertmesh.mesh.replica import Replica
from expertmesh.mesh.roster import Roster
from expertmesh.model.experts import LayerCall

NUM_ROWS, PIECE_ROWS = 40, 8


class Addressed(Protocol):
    """A server, or a wire to one."""

    address: str


class Mesh:
    """Remote experts behind real links; every server hosts all of them, unless ``hosts`` says which."""

    def __init__(self, servers: Sequence[Addressed], transport: str, hosts=None, **config) -> None:
        self.roster, self.load = Roster(), ExpertLoadCounter(NUM_LAYERS, NUM_EXPERTS)
        self.replicas = [Replica(server.address, self.roster.update) for server in servers]
        self.links = [
            open_link(server.address, FINGERPRINT, transport, replica.retire).link
            for server, replica in zip(servers, self.replicas, strict=True)
        ]
        self.roster.know(self.replicas)
        hosts = hosts or [range(NUM_EXPERTS)] * len(servers)
        for replica, link, hosted in zip(self.replicas, self.links, hosts, strict=True):
            replica.connect(link, frozenset(hosted))
        settings = {"max_piece_rows": PIECE_ROWS, "wait_seconds": 20.0, **config}
        self.remote = RemoteExperts(self.roster, DispatchConfig(**settings), self.load)

    def assert_nothing_owed(self) -> None:
        stragglers = self.remote._dispatch.stragglers
        wait_until(lambda: stragglers.look() or not any(map(stragglers.have, self.replicas)))
        assert {replica.inflight_rows for replica in self.replicas} == {0}
        assert not any(replica.is_held for replica in self.replicas)
        assert self.load.inflight_rows == self.load.queue_rows == [0] * NUM_EXPERTS
        for link in self.links:
            if isinstance(link, DirectLink) and link._rooms is not None:
                assert dict(link._rooms._taken) == {}


@contextmanager
def mesh_of(servers, transport, hosts=None, **config):
    mesh = Mesh(servers, transport, hosts, **config)
    try:
        yield mesh
    finally:
        for link in mesh.links:
            link.close()


def make_step(num_rows: int = NUM_ROWS, layer: int = 0):
    """A step, and what it must become."""
    call = make_call(num_rows, layer, seed=num_rows, dtype=torch.float32)
    call = replace(call, topk_ids=np.maximum(call.topk_ids, 0))
    return LayerCall(layer, call.hidden, torch.from_numpy(call.topk_ids), torch.from_numpy(call.topk_weights)), call
