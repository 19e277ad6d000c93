import pytest

from expertmesh.cli.local_servers import default_servers, default_threads, parse_replicas, place_experts, spread
from expertmesh.errors import ConfigError


def test_experts_are_spread_evenly_and_replicas_get_servers_of_their_own():
    assert place_experts(8, 4, {}) == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert place_experts(8, 3, {0: 2, 5: 3}) == [(0, 1), (2, 3, 4), (5, 6, 7), (0,), (5,), (5,)]
    assert place_experts(1, 1, {}) == [(0,)]


@pytest.mark.parametrize(("num_gpus", "servers"), [(1, 1), (2, 2), (8, 8), (9, 8)])
def test_every_gpu_has_a_server_whatever_the_cores(num_gpus: int, servers: int):
    assert default_servers(8, 16, num_gpus) == servers


def test_servers_are_spread_over_places_and_replicas_go_where_their_expert_is_not():
    assert spread(place_experts(8, 8, {}), 3) == [0, 1, 2, 0, 1, 2, 0, 1]
    assert spread(place_experts(8, 2, {0: 3, 7: 2}), 2) == [0, 1, 1, 0, 0]
    assert spread([(0, 1), (0,), (1,)], 1) == [0, 0, 0]


@pytest.mark.parametrize(
    ("num_experts", "num_cores", "servers", "threads"),
    [(8, 1, 1, 1), (8, 2, 1, 2), (8, 3, 1, 3), (8, 4, 2, 2), (8, 6, 3, 3), (8, 16, 4, 8), (1, 9, 1, 9), (2, 16, 2, 8)],
)
def test_servers_and_threads_follow_the_cores(num_experts: int, num_cores: int, servers: int, threads: int):
    assert default_servers(num_experts, num_cores) == servers
    assert default_threads(servers, min(2, num_experts), num_cores) == threads


@pytest.mark.parametrize(
    ("servers", "replicas", "message"),
    [(9, {}, "9 expert servers"), (4, {8: 2}, "expert 8"), (4, {0: 0}, "not 0")],
)
def test_what_cannot_be_spread_is_refused(servers: int, replicas: dict[int, int], message: str):
    with pytest.raises(ConfigError, match=message):
        place_experts(8, servers, replicas)


@pytest.mark.parametrize("entry", ["0", "0=", "=2", "a=2", "0=-1"])
def test_wrong_replica_entry_is_named(entry: str):
    with pytest.raises(ConfigError, match=repr(entry)):
        parse_replicas([entry])


def test_replica_entries_are_read():
    assert parse_replicas(["0=2", "7=3"]) == {0: 2, 7: 3}
