"""Which expert servers run on one machine, and with which experts. Knows numbers, starts nothing."""

from collections.abc import Mapping, Sequence

from expertmesh.errors import ConfigError

# Servers with fewer cores than this each wait for one another.
CORES_PER_SERVER = 2
MAX_SERVERS = 4


def default_servers(num_experts: int, num_cores: int) -> int:
    """Tell how many expert servers make the most of one machine: one for every two cores, at most four."""
    return min(num_experts, MAX_SERVERS, max(1, num_cores // CORES_PER_SERVER))


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


def parse_replicas(entries: Sequence[str]) -> dict[int, int]:
    """Read ``0=2`` entries as {0: 2}; ConfigError names the one that is not of this form."""
    replicas: dict[int, int] = {}
    for entry in entries:
        expert, _, count = entry.partition("=")
        if not expert.isdecimal() or not count.isdecimal():
            raise ConfigError(f"--replicas {entry!r} is not EXPERT=COUNT; write for example 0=2")
        replicas[int(expert)] = int(count)
    return replicas
