import pytest
import torch

from expertmesh.mesh.expert_load import DEMAND_WINDOW_SECONDS, ExpertLoadCounter, balancedness, shares


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_rows_are_counted_by_layer_and_expert_and_owed_only_inside():
    load = ExpertLoadCounter(num_layers=2, num_experts=3)
    with load.step(0, torch.tensor([[0, 2], [2, 1]])) as step:
        assert step.experts == (0, 1, 2)
        assert load.queue_rows == [1, 1, 2]
    with load.step(1, torch.tensor([[2, 0]])) as step:
        assert step.experts == (0, 2)
    assert [sum(load.by_layer(expert)) for expert in range(3)] == [2, 1, 3]
    assert load.by_layer(2) == [2, 1]
    assert load.queue_rows == load.inflight_rows == [0, 0, 0]


def test_rows_wait_then_are_in_flight_then_wait_again_and_are_answered():
    load = ExpertLoadCounter(1, 2)
    with load.step(0, torch.tensor([[0, 1], [1, 1]])) as step:
        step.sent([0, 1], num_bytes=10)
        assert (load.queue_rows, load.inflight_rows) == ([0, 0], [1, 3])
        step.answered([0])
        step.failed([1])
        assert (load.queue_rows, load.inflight_rows) == ([0, 3], [0, 0])
        step.sent([1], num_bytes=5)
        step.called([1], seconds=0.003, num_rows=2, num_bytes=7)
        step.answered([1])
        assert (load.queue_rows, load.inflight_rows) == ([0, 0], [0, 0])
    assert (load.num_retries, load.sent_bytes, load.received_bytes) == ([0, 1], 15, 7)
    assert [latencies.num_values for latencies in load.rpc_seconds] == [0, 1]
    assert [(rows.num_values, rows.sum) for rows in load.call_rows] == [(0, 0), (1, 2)]


def test_a_late_answer_of_a_step_that_ended_changes_nothing():
    load = ExpertLoadCounter(1, 2)
    with load.step(0, torch.tensor([[0, 1]])) as step:
        step.sent([0, 1])
    step.answered([0, 1])
    assert (load.queue_rows, load.inflight_rows) == ([0, 0], [0, 0])


def test_a_failed_step_owes_nothing():
    load = ExpertLoadCounter(1, 2)
    with pytest.raises(RuntimeError), load.step(0, torch.tensor([[0, 1]])) as step:
        step.sent([0])
        raise RuntimeError
    assert load.inflight_rows == load.queue_rows == [0, 0]


def test_demand_is_the_mean_of_what_is_owed_also_while_nobody_can_take_it():
    clock = Clock()
    load = ExpertLoadCounter(1, 2, clock)
    with load.step(0, torch.tensor([[0, 1]] * 8)):
        clock.now = 100 * DEMAND_WINDOW_SECONDS
        assert load.demand_rows(0) == pytest.approx(8)
    assert load.demand_rows(0) == pytest.approx(8)
    clock.now += 100 * DEMAND_WINDOW_SECONDS
    assert load.demand_rows(0) == pytest.approx(0)


def test_demand_counts_an_expert_only_until_it_has_answered():
    clock = Clock()
    load = ExpertLoadCounter(1, 2, clock)
    for _ in range(1000):
        with load.step(0, torch.tensor([[0, 1]] * 4)) as step:
            step.sent([0, 1])
            clock.now += 0.01
            step.answered([0])
            clock.now += 0.09
    assert load.demand_rows(0) == pytest.approx(0.1 * 4, rel=0.02)
    assert load.demand_rows(1) == pytest.approx(4, rel=0.02)


@pytest.mark.parametrize(
    ("totals", "expected"), [([5, 5, 5, 5], 1.0), ([8, 0, 0, 0], 0.25), ([3, 1], 2 / 3), ([0, 0], 0.0)]
)
def test_balancedness_is_mean_over_max(totals: list[int], expected: float):
    assert balancedness(totals) == pytest.approx(expected)


def test_shares_add_up_to_one_once_there_is_load():
    assert shares([1, 3]) == [0.25, 0.75]
    assert shares([0, 0]) == [0.0, 0.0]
