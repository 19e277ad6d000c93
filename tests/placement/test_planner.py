import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertmesh.errors import ConfigError
from expertmesh.placement.estimate import Workload, to_shares
from expertmesh.placement.gpus import Offer, parse_offer
from expertmesh.placement.planner import Room, choose, make_plans
from expertmesh.placement.values import to_values

MIXTRAL = Workload(
    num_layers=32,
    num_experts_per_token=2,
    expert_bytes=90.8e6,
    expert_params=176e6,
    gateway_bytes=1.2e9,
    kv_bytes=131072,
    shares=to_shares(None, 8),
    num_sequences=32,
    context=1024,
    hop_seconds=0.001,
    efficiency=0.6,
)
ROOM = Room(expert_bytes=2_900_000_000, server_bytes=1_500_000_000)


def plans(*offers: str, workload: Workload = MIXTRAL):
    parsed = [parse_offer(offer) for offer in offers]
    return make_plans(workload, parsed, parsed[0], ROOM)


def test_the_first_plan_is_the_cheapest_that_holds_every_expert():
    first = plans("l4=8@1", "t4=8@0.9")[0]
    assert [len(server.experts) for server in first.servers] == [4, 4]  # of seven that fit
    assert {server.offer.gpu.name for server in first.servers} == {"l4"}


def test_every_plan_is_faster_and_dearer_than_the_one_before():
    found = plans("l4=16@0.80", "t4=8@0.35")
    assert len(found) > 2
    for before, after in zip(found, found[1:], strict=False):
        assert after.estimate.tokens_per_second > before.estimate.tokens_per_second
        assert after.estimate.price_per_hour > before.estimate.price_per_hour


def test_a_hot_expert_is_helped_and_the_cold_ones_share():
    hot = replace(MIXTRAL, shares=to_shares([20, 1, 1, 1, 1, 1, 1, 1], 8), num_sequences=2048)
    groups = plans("l4=8@1", workload=hot)[-1].groups()
    hosts = {expert: sum(g.replicas for g in groups if expert in g.experts) for expert in range(8)}
    assert hosts[0] == max(hosts.values()) > 1
    assert max(len(group.experts) for group in groups) > 1


def test_the_first_plan_that_is_fast_enough_is_chosen():
    found = plans("l4=16@1")
    assert choose(found, 0) is found[0]
    assert choose(found, found[1].estimate.tokens_per_second) is found[1]
    assert choose(found, 1e12) is found[-1]


def test_too_few_gpus_are_an_error_with_numbers():
    with pytest.raises(ConfigError, match=r"hold 7 of 8 experts; one expert takes 2.9 GB"):
        plans("l4=1@1")


def test_values_name_a_group_for_every_expert():
    values = json.loads(to_values(plans("l4=2@1")[0].groups(), 8))
    groups = values["experts"]["groups"]
    hosted = [int(expert) for group in groups.values() for expert in group["experts"].split(",")]
    assert sorted(hosted) == list(range(8))


def test_groups_that_begin_with_the_same_expert_have_different_names():
    group = plans("l4=2@1")[0].groups()[0]
    names = json.loads(to_values([group] * 40, 8))["experts"]["groups"]
    assert list(names)[:3] == ["e0", "e0-2", "e0-3"] and len(names) == 40


@given(
    st.lists(st.floats(0.01, 100), min_size=8, max_size=8),
    st.lists(st.tuples(st.sampled_from(["t4", "l4", "h100"]), st.integers(0, 6)), min_size=1, max_size=3),
    st.integers(1, 4096),
)
def test_plans_stay_within_what_is_offered(loads: list[float], offered: list[tuple[str, int]], num_sequences: int):
    offers = [Offer(parse_offer(name).gpu, count, 1.0 + i) for i, (name, count) in enumerate(offered)]
    workload = replace(MIXTRAL, shares=to_shares(loads, 8), num_sequences=num_sequences)
    try:
        found = make_plans(workload, offers, offers[0], ROOM)
    except ConfigError:
        assert sum(offer.count * ROOM.count(offer) for offer in offers) < 8
        return
    for plan in found:
        assert {expert for server in plan.servers for expert in server.experts} == set(range(8))
        for offer in offers:
            assert [server.offer for server in plan.servers].count(offer) <= offer.count
        assert all(0 < len(server.experts) <= ROOM.count(server.offer) for server in plan.servers)
