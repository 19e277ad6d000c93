"""Which experts go on which GPUs. Knows memory and estimates, not where the numbers come from."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from expertmesh.errors import ConfigError
from expertmesh.placement.estimate import Estimate, Server, Workload, estimate
from expertmesh.placement.gpus import Offer

# A further GPU must make the mesh at least so much faster to be worth naming.
MIN_GAIN = 1.02
# Servers that are busy within this factor are helped together: of 128 experts, some have one more than others.
ALIKE = 1.1


@dataclass(frozen=True)
class Group:
    """Servers that are alike: the same experts on the same kind of GPU."""

    experts: tuple[int, ...]
    offer: Offer
    replicas: int
    utilisation: float


@dataclass(frozen=True)
class Plan:
    """A placement and what it is estimated to do."""

    servers: tuple[Server, ...]
    estimate: Estimate

    def groups(self) -> list[Group]:
        """Join servers that are alike, those with the lowest experts first."""
        alike: dict[tuple[tuple[int, ...], str], list[int]] = {}
        for index, server in enumerate(self.servers):
            alike.setdefault((server.experts, server.offer.gpu.name), []).append(index)
        groups = [
            Group(
                experts=experts,
                offer=self.servers[indices[0]].offer,
                replicas=len(indices),
                utilisation=max(self.estimate.utilisation[index] for index in indices),
            )
            for (experts, _), indices in alike.items()
        ]
        return sorted(groups, key=lambda group: group.experts)


@dataclass(frozen=True)
class Room:
    """What a GPU must hold: bytes of one expert in all layers, and of a server beside its weights."""

    expert_bytes: int
    server_bytes: int

    def count(self, offer: Offer) -> int:
        """Experts that fit on one GPU of an offer."""
        return max(0, offer.gpu.memory_bytes - self.server_bytes) // self.expert_bytes


def make_plans(workload: Workload, offers: Sequence[Offer], gateway: Offer, room: Room) -> list[Plan]:
    """Propose placements, each faster and dearer than the one before.

    The first is the cheapest that holds every expert. Each next one gives the busiest server's work more room: part of
    its experts, or a copy of one, moves to one more GPU, whichever gains most for its price. ConfigError when the GPUs
    do not hold the model.
    """
    servers = _cheapest(workload, offers, room)
    plans = [Plan(tuple(servers), estimate(workload, servers, gateway))]
    while candidates := [Plan(s, estimate(workload, s, gateway)) for s in _grown(plans[-1], workload, offers, room)]:
        best = max(candidates, key=lambda plan: _gain(plans[-1], plan))
        if best.estimate.tokens_per_second < MIN_GAIN * plans[-1].estimate.tokens_per_second:
            break
        plans.append(best)
    return plans


def choose(plans: Sequence[Plan], tokens_per_second: float) -> Plan:
    """Return the first plan that is fast enough, else the fastest."""
    return next((plan for plan in plans if plan.estimate.tokens_per_second >= tokens_per_second), plans[-1])


def _gain(before: Plan, after: Plan) -> float:
    speed = after.estimate.tokens_per_second - before.estimate.tokens_per_second
    return speed / max(after.estimate.price_per_hour - before.estimate.price_per_hour, 1e-9)


def _cheapest(workload: Workload, offers: Sequence[Offer], room: Room) -> list[Server]:
    """Take GPUs by price per expert until all fit, then deal the experts out, the hottest first."""
    num_experts = len(workload.shares)
    chosen: list[Offer] = []
    for offer in sorted(offers, key=lambda offer: offer.price / max(room.count(offer), 0.001)):
        for _ in range(offer.count):
            missing = num_experts - sum(room.count(taken) for taken in chosen)
            if missing > 0 and room.count(offer):
                chosen.append(offer)
    held = sum(map(room.count, chosen))
    if held < num_experts:
        raise ConfigError(
            f"the GPUs hold {held} of {num_experts} experts; one expert takes {room.expert_bytes / 1e9:.1f} GB, "
            f"a server {room.server_bytes / 1e9:.1f} GB besides"
        )
    return _deal(workload, chosen, room)


def _deal(workload: Workload, chosen: Sequence[Offer], room: Room) -> list[Server]:
    dealt: list[list[int]] = [[] for _ in chosen]
    for expert in sorted(range(len(workload.shares)), key=lambda expert: -workload.shares[expert]):
        free = [index for index, offer in enumerate(chosen) if len(dealt[index]) < room.count(offer)]
        coolest = min(
            free, key=lambda index: sum(workload.shares[e] for e in dealt[index]) / chosen[index].gpu.bandwidth
        )
        dealt[coolest].append(expert)
    return [Server(offer, tuple(sorted(experts))) for offer, experts in zip(chosen, dealt, strict=True) if experts]


def _grown(plan: Plan, workload: Workload, offers: Sequence[Offer], room: Room) -> Iterator[tuple[Server, ...]]:
    """Yield every way to help the busiest servers, each with one more GPU.

    All that are as busy as the busiest are helped at once: helping one of them would make nothing faster.
    """
    taken = Counter(server.offer for server in plan.servers)
    most = max(plan.estimate.utilisation)
    is_busy = [utilisation > most / ALIKE for utilisation in plan.estimate.utilisation]
    busy = [server for server, flag in zip(plan.servers, is_busy, strict=True) if flag]
    others = [server for server, flag in zip(plan.servers, is_busy, strict=True) if not flag]
    for offer in offers:
        if taken[offer] + len(busy) > offer.count:
            continue
        for num_given in range(1, room.count(offer) + 1):
            for helped in (_copied, _moved):
                servers = [part for server in busy for part in helped(workload, server, offer, num_given)]
                if len(servers) == 2 * len(busy):
                    yield (*others, *servers)


def _copied(workload: Workload, server: Server, offer: Offer, num_given: int) -> list[Server]:
    """Put a copy of the hottest experts of a server on another GPU."""
    hot = _by_heat(workload, server)[:num_given]
    return [server, Server(offer, tuple(sorted(hot)))]


def _moved(workload: Workload, server: Server, offer: Offer, num_given: int) -> list[Server]:
    """Move the hottest experts of a server to another GPU; the server as it is where it would keep none."""
    by_heat = _by_heat(workload, server)
    kept, moved = by_heat[num_given:], by_heat[:num_given]
    return [replace(server, experts=tuple(sorted(kept))), Server(offer, tuple(sorted(moved)))] if kept else [server]


def _by_heat(workload: Workload, server: Server) -> list[int]:
    return sorted(server.experts, key=lambda expert: -workload.shares[expert])
