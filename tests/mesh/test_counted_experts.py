import torch

from expertmesh.mesh.counted_experts import CountedDeviceExperts, CountedExperts
from expertmesh.mesh.expert_load import ExpertLoadCounter
from expertmesh.model.experts import LayerCall

NUM_LAYERS, NUM_EXPERTS = 3, 5


class Silent:
    def begin(self, call):
        return self

    def finish(self):
        return torch.zeros(1)


def draw(layer: int, num_rows: int) -> LayerCall:
    generator = torch.Generator().manual_seed(10 * layer + num_rows)
    ids = torch.randint(NUM_EXPERTS, (num_rows, 2), generator=generator)
    return LayerCall(layer, torch.zeros(num_rows, 4), ids, torch.ones(num_rows, 2))


def rows_of(load: ExpertLoadCounter) -> list[list[int]]:
    return [load.by_layer(expert) for expert in range(NUM_EXPERTS)]


def test_experts_on_a_device_are_counted_like_others_once_a_part_of_a_step_is_done():
    loads = [ExpertLoadCounter(NUM_LAYERS, NUM_EXPERTS) for _ in range(2)]
    others, on_device = CountedExperts(Silent(), loads[0]), CountedDeviceExperts(Silent(), loads[1])
    for num_rows in (4, 7):
        calls = [draw(layer, num_rows) for layer in range(NUM_LAYERS)]
        for call in calls:
            others.begin(call).finish()
        on_device.count(torch.stack([call.topk_ids for call in calls]).numpy())
    assert rows_of(loads[1]) == rows_of(loads[0])
