from types import SimpleNamespace

import pytest
import torch

from expertmesh.errors import ConfigError
from expertmesh.expert.store import ExpertStore

CONFIG = SimpleNamespace(num_layers=3, num_experts=4, num_experts_per_token=2, hidden_size=8)


class Shelf:
    """A checkpoint whose experts are their own names, and that remembers what was read."""

    def __init__(self):
        self.read = []

    def experts(self, wanted):
        for one in wanted:
            self.read.append(one)
            yield one


class Labels:
    """A backend that keeps the names."""

    device = torch.device("cpu")

    def experts(self, experts):
        names = list(experts)
        return SimpleNamespace(names=names, num_bytes=10 * len(names))


def test_only_the_hosted_experts_are_read_layer_by_layer():
    shelf, progress = Shelf(), []
    store = ExpertStore.load(shelf, CONFIG, [3, 1], Labels(), lambda done, total: progress.append((done, total)))
    assert shelf.read == [(0, 1), (0, 3), (1, 1), (1, 3), (2, 1), (2, 3)]
    assert [layer.names for layer in store.layers] == [[(0, 1), (0, 3)], [(1, 1), (1, 3)], [(2, 1), (2, 3)]]
    assert progress == [(1, 3), (2, 3), (3, 3)]
    assert (store.experts, store.num_experts, store.hidden_size, store.weight_bytes) == ((1, 3), 4, 8, 60)


def test_ids_become_slots():
    store = ExpertStore.load(Shelf(), CONFIG, [1, 3], Labels(), lambda done, total: None)
    slots = store.slots_of(torch.tensor([[0, 1], [2, 3], [-1, 3]]))
    assert slots.tolist() == [[-1, 0], [-1, 1], [-1, 1]]


@pytest.mark.parametrize(
    ("experts", "words"),
    [
        ([4], r"\[4\]; ids from 0 to 3"),
        ([0, -1], r"\[0, -1\]"),
        ([], r"\[\]"),
        ([2, 2], r"\[2, 2\]: each can be given once"),
    ],
)
def test_experts_that_cannot_be_hosted_are_named(experts, words):
    shelf = Shelf()
    with pytest.raises(ConfigError, match=words):
        ExpertStore.load(shelf, CONFIG, experts, Labels(), lambda done, total: None)
    assert shelf.read == []
