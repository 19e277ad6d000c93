import numpy as np
import pytest
import torch

from expertmesh.kernels.moe import run_chosen
from expertmesh.mesh.call_rows import CallRows, Partial, combine, in_order, select_rows
from expertmesh.wire.calls import ExpertCall


def make_call(topk_ids: list[list[int]]) -> ExpertCall:
    ids = np.array(topk_ids, dtype=np.int32)
    hidden = torch.arange(2 * len(ids), dtype=torch.float32).view(len(ids), 2)
    return ExpertCall(0, hidden, ids, np.ones(ids.shape, np.float32))


def test_a_call_gets_the_rows_that_chose_its_experts_and_no_other_choice():
    step = make_call([[0, 1], [2, 3], [3, 0]])
    rows, call = select_rows(step, (0, 1))
    assert rows is not None
    assert rows.numbers.tolist() == [0, 2]
    assert call.topk_ids.tolist() == [[0, 1], [-1, 0]]
    assert torch.equal(call.hidden, step.hidden[rows.numbers])


def test_a_call_of_all_choices_is_the_step_itself():
    step = make_call([[0, 1], [1, 0]])
    assert select_rows(step, (0, 1)) == (None, step)


def test_partial_rows_add_up_in_the_order_of_their_experts_whatever_came_first():
    # In float32 the order is seen: the small number is lost beside the great one.
    parts = [
        Partial((0,), None, torch.tensor([[1e8], [1.0]])),
        Partial((1,), CallRows(torch.tensor([0])), torch.tensor([[-1e8]])),
        Partial((2,), CallRows(torch.tensor([0])), torch.tensor([[1.0]])),
    ]
    assert combine(parts, (2, 1)).tolist() == [[1.0], [1.0]]
    assert torch.equal(combine(parts[::-1], (2, 1)), combine(parts, (2, 1)))


def test_a_sum_goes_where_it_is_wanted():
    out = torch.full((2, 1), 7.0)
    part = Partial((0,), CallRows(torch.tensor([1])), torch.tensor([[2.0]]))
    assert combine([part], (2, 1), out) is out
    assert out.tolist() == [[0.0], [2.0]]


@pytest.mark.parametrize(
    "topk_ids", [[[0, 1], [2, 3], [3, 0]], [[0, 1], [1, 0]], [[0, 2], [3, 1]], [[0, 1, 2], [1, 2, 3]]]
)
def test_rows_are_gathered_where_there_is_room(topk_ids):
    step, rooms = make_call(topk_ids), []

    def take_room(shape, dtype):
        rooms.append(torch.empty(*shape, dtype=dtype))
        return rooms[0]

    rows, call = select_rows(step, (0, 1), take_room)
    same_rows, expected = select_rows(step, (0, 1))
    assert call.hidden is rooms[0]
    assert torch.equal(call.hidden, expected.hidden)
    assert (call.topk_ids == expected.topk_ids).all()
    assert (rows is None) == (same_rows is None)


def test_of_several_choices_the_lowest_go_together_and_the_others_alone():
    step = make_call([[0, 1, 5, 7], [2, 5, 6, 7], [2, 3, 4, 6]])
    rows, call = select_rows(step, (0, 1, 5, 7))
    assert rows is not None and rows.firsts is not None
    assert rows.numbers.tolist() == [0, 1, 1]
    assert rows.firsts.tolist() == [0, 5, 7]
    assert [sorted(set(ids) - {-1}) for ids in call.topk_ids.tolist()] == [[0, 1, 5, 7], [5], [7]]
    assert torch.equal(call.hidden, step.hidden[rows.numbers])


@pytest.mark.parametrize("num_chosen", [1, 2, 3, 8, 12])
@pytest.mark.parametrize(
    "groups", [[[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]], [[0, 3, 9], [1, 2, 4, 11], [5, 6, 7, 8, 10]]]
)
def test_sums_have_the_same_bits_whoever_answers(num_chosen, groups):
    rng = np.random.default_rng(num_chosen)
    ids = np.stack([rng.permutation(12)[:num_chosen] for _ in range(40)]).astype(np.int32)
    # Sums of these depend on their order nearly always.
    weights = (rng.standard_normal(ids.shape) * 10.0 ** rng.integers(-3, 4, ids.shape)).astype(np.float32)
    step = ExpertCall(0, torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), *in_order(ids, weights))
    experts = Scaling(torch.linspace(0.5, 2, 12))
    expected = run_chosen(experts, 12, step.hidden, ids, weights)
    partials = []
    for group in reversed(groups):
        rows, call = select_rows(step, tuple(group))
        partials.append(
            Partial(tuple(group), rows, run_chosen(experts, 12, call.hidden, call.topk_ids, call.topk_weights))
        )
    assert torch.equal(combine(partials, step.hidden.shape), expected)


class Scaling:
    """Experts that multiply by ``factors`` [E]."""

    num_bytes = 0

    def __init__(self, factors: torch.Tensor) -> None:
        self.factors = factors

    def __call__(self, x, num_rows, row_weights):
        return x * self.factors.repeat_interleave(torch.tensor(num_rows))[:, None] * row_weights[:, None]
