from dataclasses import replace

import pytest

from expertmesh.errors import ConfigError
from expertmesh.placement.estimate import Server, Workload, estimate, to_shares
from expertmesh.placement.gpus import Gpu, Offer

SLOW = Offer(Gpu("slow", 24 * 10**9, 1e9, 1e15), 8, 1.0)
FAST = Offer(Gpu("fast", 24 * 10**9, 2e9, 1e15), 8, 3.0)
EVEN = Workload(
    num_layers=10,
    num_experts_per_token=2,
    expert_bytes=1e6,
    expert_params=2e6,
    gateway_bytes=10e6,
    kv_bytes=0,
    shares=(0.25,) * 4,
    num_sequences=1000,  # every expert is asked in every layer
    context=0,
    hop_seconds=0.001,
    efficiency=0.5,
)


def test_a_step_is_the_sum_of_its_parts():
    one = [Server(SLOW, (0, 1, 2, 3))]
    result = estimate(EVEN, one, SLOW)
    # Of 10 layers: attention reads 1 MB, the experts 4 MB at half of 1 GB/s; the hop is 1 ms.
    assert result.step_seconds == pytest.approx(10 * (0.002 + 0.001 + 0.008))
    assert result.tokens_per_second == pytest.approx(1000 / result.step_seconds)
    assert result.utilisation == (pytest.approx(8 / 11),)
    assert result.price_per_hour == 2
    assert result.price_per_million_tokens == pytest.approx(2 / 3600 / result.tokens_per_second * 1e6)


def test_the_slowest_server_counts():
    halves = [Server(SLOW, (0, 1)), Server(FAST, (2, 3))]
    assert estimate(EVEN, halves, SLOW).step_seconds == pytest.approx(10 * (0.002 + 0.001 + 0.004))


def test_a_replica_halves_the_work_only_where_multiplying_is_the_limit():
    reading = [Server(SLOW, (0, 1, 2, 3))]
    assert estimate(EVEN, reading * 2, SLOW).step_seconds == pytest.approx(estimate(EVEN, reading, SLOW).step_seconds)
    slow_maths = Offer(Gpu("maths", 24 * 10**9, 1e15, 1e12), 8, 1.0)
    multiplying = [Server(slow_maths, (0, 1, 2, 3))]
    one, two = (estimate(replace(EVEN, hop_seconds=0), multiplying * n, slow_maths) for n in (1, 2))
    assert two.step_seconds == pytest.approx(one.step_seconds / 2)


def test_an_expert_that_is_seldom_asked_is_seldom_read():
    alone = replace(EVEN, num_sequences=1, gateway_bytes=0, hop_seconds=0)
    whole = estimate(alone, [Server(SLOW, (0, 1, 2, 3))], SLOW).step_seconds
    assert whole < 10 * 2 * 0.002  # two experts of four are asked, at most


def test_loads_become_shares():
    assert to_shares(None, 4) == (0.25,) * 4
    assert to_shares([3, 1], 2) == (0.75, 0.25)


@pytest.mark.parametrize(("loads", "message"), [([1, 2, 3], "3 loads"), ([0, 0], "not all 0"), ([-1, 2], "at least 0")])
def test_loads_that_make_no_sense(loads, message):
    with pytest.raises(ConfigError, match=message):
        to_shares(loads, 2)
