import pytest

from expertmesh.gateway.api.load_rates import rates
from expertmesh.v1 import load_pb2 as pb


def load(prompt: int, generation: int, *by_layer: tuple[int, ...]) -> pb.GetLoadResponse:
    experts = [
        pb.ExpertLoad(expert=expert, tokens=sum(layers), tokens_by_layer=layers)
        for expert, layers in enumerate(by_layer)
    ]
    return pb.GetLoadResponse(
        experts=experts, gateway=pb.GatewayLoad(prompt_tokens=prompt, generation_tokens=generation)
    )


def test_rates_are_differences_per_second():
    result = rates(load(10, 5, (4, 0), (0, 6)), load(30, 6, (4, 2), (12, 6)), seconds=2.0)
    assert (result.prompt_tokens_per_second, result.generation_tokens_per_second) == (10.0, 0.5)
    assert [expert.tokens_per_second for expert in result.experts] == [1.0, 6.0]
    assert [list(expert.tokens_per_second_by_layer) for expert in result.experts] == [[0.0, 1.0], [6.0, 0.0]]


def test_shares_are_those_of_the_time_in_between():
    result = rates(load(0, 0, (100,), (0,)), load(0, 0, (101,), (3,)), seconds=1.0)
    assert [expert.share for expert in result.experts] == [0.25, 0.75]
    assert result.balancedness == pytest.approx(2 / 3)


def test_a_quiet_time_has_zeros():
    before = load(1, 1, (5,), (7,))
    result = rates(before, before, seconds=1.0)
    assert [(expert.tokens_per_second, expert.share) for expert in result.experts] == [(0, 0), (0, 0)]
    assert result.balancedness == 0


def test_an_engine_that_was_started_again_counts_from_zero():
    result = rates(load(100, 50, (40,), (7,)), load(3, 2, (6,), (2,)), seconds=2.0)
    assert (result.prompt_tokens_per_second, result.generation_tokens_per_second) == (1.5, 1.0)
    assert [expert.tokens_per_second for expert in result.experts] == [3.0, 1.0]
    assert [expert.share for expert in result.experts] == [0.75, 0.25]
