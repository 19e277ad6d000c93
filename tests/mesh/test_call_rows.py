import numpy as np
import torch

from expertmesh.mesh.call_rows import Partial, combine, select_rows
from expertmesh.wire.calls import ExpertCall


def make_call(topk_ids: list[list[int]]) -> ExpertCall:
    ids = np.array(topk_ids, dtype=np.int32)
    hidden = torch.arange(2 * len(ids), dtype=torch.float32).view(len(ids), 2)
    return ExpertCall(0, hidden, ids, np.ones(ids.shape, np.float32))


def test_a_call_gets_the_rows_that_chose_its_experts_and_no_other_choice():
    step = make_call([[0, 1], [2, 3], [3, 0]])
    rows, call = select_rows(step, (0, 1))
    assert rows is not None
    assert rows.tolist() == [0, 2]
    assert call.topk_ids.tolist() == [[0, 1], [-1, 0]]
    assert torch.equal(call.hidden, step.hidden[rows])


def test_a_call_of_all_choices_is_the_step_itself():
    step = make_call([[0, 1], [1, 0]])
    assert select_rows(step, (0, 1)) == (None, step)


def test_partial_rows_add_up_in_the_order_of_their_experts_whatever_came_first():
    hidden = torch.zeros(2, 1)
    # In float32 the order is seen: the small number is lost beside the great one.
    parts = [
        Partial((0,), None, torch.tensor([[1e8], [1.0]])),
        Partial((1,), torch.tensor([0]), torch.tensor([[-1e8]])),
        Partial((2,), torch.tensor([0]), torch.tensor([[1.0]])),
    ]
    assert combine(parts, hidden).tolist() == [[1.0], [1.0]]
    assert torch.equal(combine(parts[::-1], hidden), combine(parts, hidden))
