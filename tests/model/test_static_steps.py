"""Steps on memory that stays where it is: the same bits as steps that take their own."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from checkpoints import DENSE_MODEL, OLMOE, QWEN3_MOE
from device_ffn import OnDevice, on_device, rows_of
from torch.utils._python_dispatch import TorchDispatchMode

from expertmesh.errors import ComputeError
from expertmesh.kernels.backends import create_backend
from expertmesh.kernels.cpu import CpuBackend
from expertmesh.kernels.reference import ReferenceBackend
from expertmesh.mesh.counted_experts import CountedDeviceExperts, CountedExperts
from expertmesh.mesh.expert_load import ExpertLoadCounter
from expertmesh.model.cuda_graphs import CudaGraphs
from expertmesh.model.experts import LayerCall, run_experts
from expertmesh.model.recording import buckets
from expertmesh.model.static_steps import StaticSteps
from expertmesh.model.turns import in_turns

MAX_BLOCKS = 16
CASES = {
    "float32": (partial(CpuBackend), torch.float32, {}),
    "bfloat16": (partial(CpuBackend), torch.bfloat16, {}),
    "awq": (partial(CpuBackend), torch.float32, {"group_size": 64}),
    "dense with a window": (partial(CpuBackend), torch.float32, {**DENSE_MODEL, "sliding_window": 7}),
    "qwen3_moe": (partial(CpuBackend), torch.bfloat16, QWEN3_MOE),
    "olmoe": (partial(CpuBackend), torch.float32, OLMOE),
}


def make_steps(rig, max_rows: int = 8, **options) -> StaticSteps:
    return StaticSteps(rig.decoder, rig.cache, MAX_BLOCKS, max_rows, **options)


def tokens(count: int, seed: int) -> list[int]:
    return torch.randint(0, 256, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("case", CASES)
def test_static_steps_equal_eager_ones(make_mixtral, make_rig, case):
    make_backend, dtype, overrides = CASES[case]
    directory = make_mixtral(**overrides).directory
    eager, static = (make_rig(directory, dtype, make_backend()) for _ in range(2))
    steps = make_steps(static)
    prompts = {key: tokens(3 + 4 * key, key) for key in range(7)}
    for rig in (eager, static):
        rig.step(prompts)
    # As many as there is room for, fewer, one alone: padding is never seen.
    for number, keys in enumerate([(0, 1, 2, 3), (4, 5, 6), (2,), (6, 0, 1, 2, 3), tuple(range(7))]):
        new = {key: tokens(1, 100 * number + key) for key in keys}
        batch = static.batch(new)
        assert steps.fits(batch)
        [logits] = in_turns([steps.part(batch, static.experts)])
        assert torch.equal(logits, eager.step(new))


def test_padding_writes_where_nobody_reads(make_mixtral, make_rig):
    rig = make_rig(make_mixtral().directory)
    rig.step({0: tokens(5, 0)})
    before = rig.cache.keys.clone()
    batch = rig.batch({0: tokens(1, 1), 1: [7], 2: [9]})  # four rows, three of them used
    in_turns([make_steps(rig).part(batch, rig.experts)])
    changed = (rig.cache.keys != before).flatten(2).any(-1).any(0).nonzero().flatten().tolist()
    assert sorted({*changed, rig.cache.padding_slot}) == sorted([*batch.slot_mapping.tolist(), rig.cache.padding_slot])


def test_only_steps_of_one_token_each_that_have_room_fit(make_mixtral, make_rig):
    rig = make_rig(make_mixtral().directory)
    steps = make_steps(rig, max_rows=2)
    assert steps.fits(rig.batch({0: [1], 1: [2]}))
    assert not steps.fits(rig.batch({2: [1], 3: [2], 4: [3]}))
    assert not steps.fits(rig.batch({5: [1, 2]}))
    assert not steps.fits(rig.batch({6: [1], 7: [2, 3]}))
    rig.batch({8: tokens(4 * MAX_BLOCKS, 0)})
    assert not steps.fits(rig.batch({8: [1]}))


def test_every_step_up_to_the_greatest_has_room_and_no_more_is_recorded():
    assert [buckets(max_rows) for max_rows in (1, 2, 3, 48)] == [[1], [1, 2], [1, 2, 4], [1, 2, 4, 8, 16, 32, 64]]
    assert buckets(10**6)[-1] == 512


def test_two_parts_of_a_step_take_turns(make_mixtral, make_rig):
    directory = make_mixtral().directory
    eager, static = (make_rig(directory, torch.float32, CpuBackend()) for _ in range(2))
    steps = make_steps(static, num_parts=2)
    first, second = {0: [5], 1: [6]}, {2: [7], 3: [8]}
    parts = [steps.part(static.batch(new), static.experts) for new in (first, second)]
    logits = in_turns(parts)
    assert torch.equal(torch.cat(logits), torch.cat([eager.step(first), eager.step(second)]))


def test_a_step_that_fails_gives_its_memory_back(make_mixtral, make_rig):
    class Failing:
        def begin(self, call):
            raise ComputeError("no")

    rig = make_rig(make_mixtral().directory)
    steps = make_steps(rig, max_rows=1)
    for _ in range(2):
        with pytest.raises(ComputeError, match="no"):
            in_turns([steps.part(rig.batch({0: [1]}), Failing())])
    in_turns([steps.part(rig.batch({0: [1]}), rig.experts)])


@pytest.mark.parametrize("case", ["float32", "dense with a window", "qwen3_moe", "olmoe"])
def test_whole_steps_on_a_device_equal_eager_ones_and_are_counted(make_mixtral, make_rig, case):
    make_backend, dtype, overrides = CASES[case]
    directory = make_mixtral(**overrides).directory
    eager, static = (make_rig(directory, dtype, make_backend()) for _ in range(2))
    config = static.config
    loads = [ExpertLoadCounter(config.num_layers, config.num_experts) for _ in range(2)]
    experts = on_device(static.experts, loads[0])
    eager.experts = CountedExperts(eager.experts, loads[1])
    steps = make_steps(static, device_experts=experts)
    for rig in (eager, static):
        rig.step({key: tokens(3 + key, key) for key in range(3)})
    before = rows_of(loads[1])
    for keys in ((0, 1, 2), (1,)):
        new = {key: tokens(1, key) for key in keys}
        batch = static.batch(new)
        [logits] = in_turns([steps.part(batch, experts)])
        assert torch.equal(logits, eager.step(new))
    assert torch.equal(rows_of(loads[0]), rows_of(loads[1]) - before)


def test_parts_without_a_pause_keep_their_logits_until_all_are_done(make_mixtral, make_rig):
    directory = make_mixtral().directory
    eager, static = (make_rig(directory, torch.float32, CpuBackend()) for _ in range(2))
    experts = on_device(static.experts, ExpertLoadCounter(2, 8))
    steps = make_steps(static, num_parts=2, device_experts=experts)
    for first, second in (({0: [5]}, {1: [6]}), ({0: [7], 1: [8]}, {2: [9], 3: [10]})):
        logits = in_turns([steps.part(static.batch(new), experts) for new in (first, second)])
        assert torch.equal(torch.cat(logits), torch.cat([eager.step(first), eager.step(second)]))


def test_experts_on_a_device_that_fail_are_named_by_their_layer(make_mixtral, make_rig):
    class Broken(OnDevice):
        def run_chosen(self, hidden, topk_slots, topk_weights, out=None, nonfinite=None):
            out.fill_(torch.nan)
            nonfinite.fill_(1)

    rig = make_rig(make_mixtral().directory)
    kinds = iter((OnDevice, Broken))
    experts = on_device(rig.experts, ExpertLoadCounter(2, 8), lambda layer, count: next(kinds)(layer, count))
    steps = make_steps(rig, device_experts=experts)
    with pytest.raises(ComputeError, match="layer 1: values that are not finite, from its experts or before"):
        in_turns([steps.part(rig.batch({0: [1]}), experts)])


class AskedFromTheHost:
    """Experts of a device that get rows from the host and answer there, as expert servers do."""

    def __init__(self, experts, device: torch.device) -> None:
        self._experts, self._device = experts, device

    def begin(self, call):
        parts = (part.to(self._device) for part in (call.hidden, call.topk_ids, call.topk_weights))
        answer = run_experts(self._experts, LayerCall(call.layer, *parts)).cpu()
        return SimpleNamespace(finish=lambda: answer)


@pytest.mark.gpu
@pytest.mark.parametrize("is_whole", [True, False], ids=["one graph", "a graph per layer"])
@pytest.mark.parametrize(
    "overrides",
    [{"group_size": 64}, {**DENSE_MODEL, "sliding_window": 7}, QWEN3_MOE, {**OLMOE, "group_size": 64}],
    ids=["awq", "dense", "qwen3_moe", "olmoe awq"],
)
def test_replayed_steps_equal_eager_ones_on_a_gpu(make_mixtral, make_rig, is_whole, overrides):
    device = torch.device("cuda")
    directory = make_mixtral(**{**overrides, "head_dim": 64}).directory
    eager, static = (make_rig(directory, torch.bfloat16, create_backend("triton", device)) for _ in range(2))
    load = ExpertLoadCounter(static.config.num_layers, static.config.num_experts)
    whole = CountedDeviceExperts(static.experts, load) if is_whole else None
    experts = whole or AskedFromTheHost(static.experts, device)
    steps = make_steps(static, device_experts=whole, record=CudaGraphs(device))
    for rig in (eager, static):
        rig.step({key: tokens(3 + 4 * key, key) for key in range(7)})
    for number, keys in enumerate([(0, 1, 2, 3), (4, 5, 6), (2,), tuple(range(7))]):
        new = {key: tokens(1, 100 * number + key) for key in keys}
        [logits] = in_turns([steps.part(static.batch(new), experts)])
        assert torch.equal(logits, eager.step(new))


class Launches(TorchDispatchMode):
    """Counts operations, apart inside recorded work and outside."""

    def __init__(self) -> None:
        super().__init__()
        self.is_inside = False
        self.inside: list[str] = []
        self.outside: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view:
            (self.inside if self.is_inside else self.outside).append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))

    def record(self, work):
        def replay() -> None:
            self.is_inside = True
            work()
            self.is_inside = False

        return replay


def test_nothing_is_launched_between_two_stages_but_copies_on_the_host(make_mixtral, make_rig):
    rig = make_rig(make_mixtral().directory, torch.float32, ReferenceBackend(torch.device("cpu")))
    answer = torch.zeros(1, rig.config.hidden_size)

    class Silent:
        def begin(self, call):
            return self

        def finish(self):
            return answer

        def abandon(self):
            pass

    launches = Launches()
    steps = make_steps(rig, max_rows=1, record=launches.record)
    batch = rig.batch({0: [1]})
    with launches:
        part = steps.part(batch, Silent())
        for _ in range(rig.config.num_layers):
            next(part)
            between, launches.outside = launches.outside, []
        # ``answer`` is a copy from one place of the host to another; on a GPU the rest is one replay.
        assert between == ["copy_"]
    part.close()
