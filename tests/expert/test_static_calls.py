"""Calls on memory that stays where it is: the same bits as calls that take their own."""

import numpy as np
import pytest
import torch

from expertmesh.expert.static_calls import CallMemory, StaticCalls
from expertmesh.expert.store import ExpertStore
from expertmesh.kernels.backend import DeviceFFN
from expertmesh.kernels.moe import run_chosen

NUM_LAYERS, NUM_HOSTED, HIDDEN, NUM_CHOSEN = 2, 3, 16, 2


class OnDevice(DeviceFFN):
    """Experts of a CPU, as if its host had not to be asked: expert e of layer l scales a row's sine by 10 l + e + 1."""

    num_bytes = 0

    def __init__(self, layer: int) -> None:
        self._layer = layer

    def __call__(self, x, num_rows, row_weights):
        experts = torch.repeat_interleave(torch.arange(len(num_rows)), torch.tensor(list(num_rows)))
        return x.float().sin() * (10 * self._layer + experts[:, None] + 1) * row_weights[:, None]

    def run_chosen(self, hidden, topk_slots, topk_weights, out=None, nonfinite=None):
        out.copy_(run_chosen(Plain(self._layer), NUM_HOSTED, hidden, topk_slots.numpy(), topk_weights.numpy()))


class Plain:
    """The same, asked by the host."""

    num_bytes = 0

    def __init__(self, layer: int) -> None:
        self._ffn = OnDevice(layer)

    def __call__(self, x, num_rows, row_weights):
        return self._ffn(x, num_rows, row_weights)


def make_calls(max_rows: int = 8) -> StaticCalls:
    layers = [OnDevice(layer) for layer in range(NUM_LAYERS)]
    store = ExpertStore(layers, range(NUM_HOSTED), 8, HIDDEN, torch.device("cpu"))
    return StaticCalls(store, NUM_CHOSEN, torch.bfloat16, max_rows)


def draw(num_rows: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num_rows, HIDDEN, generator=generator).bfloat16()
    slots = torch.randint(-1, NUM_HOSTED, (num_rows, NUM_CHOSEN), generator=generator).numpy()
    return hidden, slots, torch.rand(num_rows, NUM_CHOSEN, generator=generator).numpy()


@pytest.mark.parametrize("num_rows", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("layer", range(NUM_LAYERS))
def test_static_calls_equal_others(num_rows, layer):
    calls = make_calls()
    for seed in range(3):
        call = draw(num_rows, seed)
        assert calls.fits(*call[:2])
        assert torch.equal(calls.run(layer, *call), run_chosen(Plain(layer), NUM_HOSTED, *call))


def test_a_call_may_be_read_only():
    hidden, slots, weights = draw(3)
    for values in (slots, weights):
        values.setflags(write=False)
    found = make_calls().run(0, hidden, slots, weights)
    assert torch.equal(found, run_chosen(Plain(0), NUM_HOSTED, hidden, slots, weights))


@pytest.mark.parametrize(("num_rows", "num_chosen", "hidden_size"), [(1, 1, 16), (1, 3, 16), (2, 2, 16), (1, 1, 37)])
def test_rows_and_choices_are_aligned_for_kernels_that_read_16_bytes(num_rows, num_chosen, hidden_size):
    memory = CallMemory(num_rows, num_chosen, hidden_size, torch.bfloat16, torch.device("cpu"))
    for part in (memory.slots, memory.weights, memory.hidden):
        assert part.storage_offset() * part.element_size() % 16 == 0


def test_an_answer_stays_what_it_is_when_the_next_call_runs():
    calls = make_calls()
    first = calls.run(0, *draw(4, 1))
    kept = first.clone()
    calls.run(0, *draw(4, 2))
    assert torch.equal(first, kept)


def test_only_calls_that_were_recorded_fit():
    calls, (hidden, slots, _) = make_calls(4), draw(5)
    assert calls.fits(hidden[:4], slots[:4])
    assert not calls.fits(hidden, slots)
    assert not calls.fits(hidden[:4].float(), slots[:4])
    assert not calls.fits(hidden[:4], np.ascontiguousarray(slots[:4, :1]))
