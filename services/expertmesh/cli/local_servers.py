"""Which expert servers run on one machine, and with which experts. Knows numbers, starts nothing."""

from collections.abc import Mapping, Sequence

from expertmesh.errors import ConfigError

# Servers with fewer cores than this each wait for one another.
CORES_PER_SERVER = 2
MAX_SERVERS = 4


def default_servers(num_experts: int, num_cores: int, num_gpus: int = 0) -> int:
    """Tell how many expert servers make the most of one machine: one per GPU.

    Without GPUs one for every two cores, at most four.
    """
    return min(num_experts, num_gpus or min(MAX_SERVERS, max(1, num_cores // CORES_PER_SERVER)))


def default_threads(num_servers: int, num_experts_per_token: int, num_cores: int) -> int:
    """Tell how many threads each expert server gets, so that those busy at a time fill the cores.

    With one sequence, these are as many as a token has experts, while the gateway waits.
    """
    return max(1, num_cores // min(num_servers, num_experts_per_token))


def place_experts(num_experts: int, num_servers: int, replicas: Mapping[int, int]) -> list[tuple[int, ...]]:
    """Spread the experts over ``num_servers`` servers in runs of equal length, then add a server per further replica.

    ``replicas`` maps an expert to how many servers should host it in all, at least 1.
    """
    if num_servers > num_experts:
        raise ConfigError(f"{num_servers} expert servers for {num_experts} experts; at most one per expert")
    for expert, count in replicas.items():
        if not 0 <= expert < num_experts:
            raise ConfigError(f"replicas of expert {expert}: the model has experts 0 to {num_experts - 1}")
        if count < 1:
            raise ConfigError(f"expert {expert} needs at least 1 replica, not {count}")
    bounds = [server * num_experts // num_servers for server in range(num_servers + 1)]
    servers = [tuple(range(first, last)) for first, last in zip(bounds, bounds[1:], strict=False)]
    return servers + [(expert,) for expert, count in replicas.items() for _ in range(count - 1)]


def spread(servers: Sequence[tuple[int, ...]], num_places: int) -> list[int]:
    """Choose the place of each server, from 0: where its experts are least, and of such places where least experts are.

    So replicas of an expert are in different places as long as there are any.
    """
    hosted: list[list[int]] = [[] for _ in range(num_places)]
    chosen = []
    for experts in servers:
        place = min(range(num_places), key=lambda number: (_num_common(hosted[number], experts), len(hosted[number])))
        hosted[place].extend(experts)
        chosen.append(place)
    return chosen


def _num_common(hosted: Sequence[int], experts: Sequence[int]) -> int:
    return len(set(hosted) & set(experts))


def parse_replicas(entries: Sequence[str]) -> dict[int, int]:
    """Read ``0=2`` entries as {0: 2}; ConfigError names the one that is not of this form."""
    replicas: dict[int, int] = {}
    for entry in entries:
        expert, _, count = entry.partition("=")
        if not expert.isdecimal() or not count.isdecimal():
            raise ConfigError(f"--replicas {entry!r} is not EXPERT=COUNT; write for example 0=2")
        replicas[int(expert)] = int(count)
    return replicas
