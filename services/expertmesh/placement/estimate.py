"""How fast a placement decodes, by the formula of docs/planning.md. Knows bytes and rows, runs nothing.

Alphabet: B sequences decoding at once, A experts chosen per token, L layers.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from expertmesh.errors import ConfigError
from expertmesh.placement.gpus import Gpu, Offer


@dataclass(frozen=True)
class Workload:
    """A model and what is asked of it.

    ``expert_bytes`` and ``expert_params`` are those of one expert in one layer; ``gateway_bytes`` what the gateway
    reads in a step; ``kv_bytes`` what a token of context takes in all layers. ``shares`` add up to 1.
    """

    num_layers: int
    num_experts_per_token: int
    expert_bytes: float
    expert_params: float
    gateway_bytes: float
    kv_bytes: float
    shares: tuple[float, ...]
    num_sequences: int
    context: int
    hop_seconds: float
    efficiency: float


@dataclass(frozen=True)
class Server:
    """One expert server: a GPU of an offer, and the experts on it."""

    offer: Offer
    experts: tuple[int, ...]


@dataclass(frozen=True)
class Estimate:
    """What a placement would do: tokens per second, and for each server the part of a step in which it computes."""

    tokens_per_second: float
    price_per_hour: float
    step_seconds: float
    utilisation: tuple[float, ...]

    @property
    def price_per_million_tokens(self) -> float:
        """Price of a million tokens at this speed."""
        return self.price_per_hour / 3600 / self.tokens_per_second * 1e6


def to_shares(loads: Sequence[float] | None, num_experts: int) -> tuple[float, ...]:
    """Divide the load of each expert by their sum; even shares without loads. ConfigError when they make no sense."""
    if loads is None:
        return (1 / num_experts,) * num_experts
    if len(loads) != num_experts:
        raise ConfigError(f"{len(loads)} loads were given; the model has {num_experts} experts")
    if not (all(0 <= load < math.inf for load in loads) and sum(loads) > 0):
        raise ConfigError(f"loads are {list(loads)}; they must be at least 0, finite, and not all 0")
    return tuple(load / sum(loads) for load in loads)


def estimate(workload: Workload, servers: Sequence[Server], gateway: Offer) -> Estimate:
    """Estimate a placement in which every expert has a server."""
    hosts = Counter(expert for server in servers for expert in server.experts)
    busy = [_server_seconds(workload, server, hosts) for server in servers]
    layer = _gateway_seconds(workload, gateway.gpu) + workload.hop_seconds + max(busy)
    step_seconds = workload.num_layers * layer
    return Estimate(
        tokens_per_second=workload.num_sequences / step_seconds,
        price_per_hour=gateway.price + sum(server.offer.price for server in servers),
        step_seconds=step_seconds,
        utilisation=tuple(seconds / layer for seconds in busy),
    )


def _server_seconds(workload: Workload, server: Server, hosts: Counter[int]) -> float:
    """Time of one layer on a server: its experts, one after the other, each with its part of the rows."""
    rows = workload.num_sequences * workload.num_experts_per_token
    return sum(
        _expert_seconds(workload, server.offer.gpu, rows * workload.shares[expert] / hosts[expert])
        for expert in server.experts
    )


def _expert_seconds(workload: Workload, gpu: Gpu, num_rows: float) -> float:
    """Reading the weights, in the steps in which any row comes, or multiplying them: whichever takes longer."""
    is_asked = 1 - math.exp(-num_rows)
    reading = is_asked * workload.expert_bytes / (gpu.bandwidth * workload.efficiency)
    multiplying = num_rows * 2 * workload.expert_params / (gpu.flops * workload.efficiency)
    return max(reading, multiplying)


def _gateway_seconds(workload: Workload, gpu: Gpu) -> float:
    """Time of one layer's attention: its weights and the keys and values of every sequence are read once."""
    kv_bytes = workload.num_sequences * workload.context * workload.kv_bytes
    return (workload.gateway_bytes + kv_bytes) / workload.num_layers / (gpu.bandwidth * workload.efficiency)
