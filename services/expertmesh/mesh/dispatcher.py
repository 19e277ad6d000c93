"""The experts of all layers on expert servers: the gateway's end of dispatch and combine.

Knows who can be called; layer_step.py knows what becomes of the calls of one layer. Alphabet: T rows of the step.
"""

import random
import time

import numpy as np

from expertmesh.mesh.call_rows import in_order
from expertmesh.mesh.dispatch_config import DispatchConfig
from expertmesh.mesh.expert_load import ExpertLoadCounter
from expertmesh.mesh.hedges import Hedges
from expertmesh.mesh.layer_step import LayerStep
from expertmesh.mesh.piece import Dispatch
from expertmesh.mesh.roster import Roster
from expertmesh.mesh.stragglers import Stragglers
from expertmesh.model.experts import LayerCall
from expertmesh.model.patience import Patience
from expertmesh.tracing.tracer import NullTracer, Tracer
from expertmesh.wire.calls import ExpertCall


class RemoteExperts:
    """Experts run by the servers on ``roster``; ``load`` counts what they are asked."""

    def __init__(
        self,
        roster: Roster,
        config: DispatchConfig,
        load: ExpertLoadCounter,
        rng: random.Random | None = None,
        tracer: Tracer = NullTracer(),
    ) -> None:
        rng, stragglers = rng or random.Random(), Stragglers()
        self._dispatch = Dispatch(roster, config, rng, tracer, stragglers, Hedges(roster, stragglers, rng, tracer))
        self._load = load

    def begin(self, call: LayerCall) -> LayerStep:
        """Send every replica its rows and return.

        An expert without any replica is waited for or done without, as its rows want. Raises NoReplicaError where they
        want neither, or the time for it is over.
        """
        ids, weights = in_order(call.topk_ids.cpu().numpy().astype(np.int32), call.topk_weights.cpu().numpy())
        timeout = self._dispatch.config.call_timeout_seconds
        rows = ExpertCall(call.layer, call.hidden.cpu(), ids, weights, timeout, call.traceparent)
        patience = call.patience or Patience.of_all(len(ids), time.monotonic())
        step = LayerStep(self._dispatch, rows, patience, call.hidden.device, self._load)
        step.start()
        return step
