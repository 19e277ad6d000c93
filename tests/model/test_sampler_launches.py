"""What choosing tokens asks of a GPU: how many operations, and one answer to its host. Needs none: tensors are fake."""

from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from expertmesh.model import sampler
from expertmesh.model.adjust import SamplingRow
from expertmesh.model.sampler import Sampler
from expertmesh.model.sampling import SamplingParams

VOCAB = 32_000
GREEDY = [SamplingParams()]
MIXED = [
    SamplingParams(),
    SamplingParams(temperature=0.8),
    SamplingParams(temperature=0.8, top_k=50),
    SamplingParams(temperature=0.8, top_p=0.95),
    SamplingParams(temperature=0.8, min_p=0.05),
    SamplingParams(temperature=0.7, top_k=40, top_p=0.9, logprobs=2),
    SamplingParams(logprobs=5),
    SamplingParams(temperature=1.0, top_k=50, top_p=0.95),
]
WHOLE = [*MIXED, SamplingParams(temperature=1.0, typical_p=0.9), SamplingParams(temperature=1.0, top_k=2000)]
# Of these torch makes or looks at memory, and launches nothing.
NO_LAUNCHES = ("detach_", "device", "empty", "zeros_like")


class Launches(TorchDispatchMode):
    """Notes torch's operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        if not operation.is_view and name not in NO_LAUNCHES:
            self.names.append(name)
        return operation(*args, **(kwargs or {}))


class ReadError(Exception):
    """The host wants to know."""


@pytest.fixture
def count(monkeypatch):
    """Count what steps of so many rows launch, and copy to the device, until the host wants to know what was chosen."""

    def read(*parts: torch.Tensor) -> None:
        # A device has answered once all it is asked for is in one tensor.
        raise ReadError(len(parts))

    def count_steps(params: list[SamplingParams], num_rows: int, num_steps: int = 2, **fields: Any) -> list[list[int]]:
        some = [
            SamplingRow(params[index % len(params)], fields.get("prompt_ids", ()), fields.get("output_ids", ()), 0.5)
            for index in range(num_rows)
        ]
        chooser = Sampler()
        counts = []
        with FakeTensorMode():  # in which to ask for a value, or for how many values pass a test, is an error
            logits = torch.empty(num_rows, VOCAB, device="cuda")
            for _ in range(num_steps):
                copies.clear()
                with Launches() as launches, pytest.raises(ReadError):
                    chooser.sample(logits, some)
                counts.append([len(launches.names), len(copies)])
        return counts

    copies: list[object] = []

    def noted(values: Any, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        copies.append(values)
        return torch.empty(np.shape(values), dtype=dtype, device=device)

    for module in ("adjust", "draws", "sampler", "truncate"):
        monkeypatch.setattr(f"expertmesh.model.{module}.to_device", noted)
    monkeypatch.setattr(sampler, "_read", read)
    return count_steps


def test_greedy_rows_are_one_launch_and_no_copy(count):
    assert count(GREEDY, 32) == [[1, 0], [1, 0]]


@pytest.mark.parametrize("num_rows", [8, 32, 128])
def test_a_mixed_batch_takes_as_many_launches_whatever_its_size_and_copies_its_noise_alone(count, num_rows):
    assert count(MIXED, num_rows) == [[57, 5], [57, 1]]


def test_rows_that_no_candidates_are_enough_for_are_cut_apart(count):
    [first, second] = count(WHOLE, 40)
    assert first[1] == 6 and second[1] == 1
    assert second[0] < 2 * 57


def test_penalties_are_copied_in_each_step_and_nothing_is_asked(count):
    params = SamplingParams(repetition_penalty=1.1, frequency_penalty=0.5, logit_bias=((3, 1.0),))
    steps = count([params], 1, prompt_ids=(1, 2), output_ids=[3, 4, 3])
    assert steps[0] == steps[1] and steps[0][1] == 4


@pytest.mark.parametrize("params", [GREEDY, MIXED, WHOLE])
def test_one_answer_is_read_in_a_step(params, monkeypatch):
    answers = []
    read = sampler._read

    def noted(*parts: torch.Tensor):
        answers.append(len(parts))
        return read(*parts)

    monkeypatch.setattr(sampler, "_read", noted)
    logits = 4 * torch.randn(len(params), VOCAB, generator=torch.Generator().manual_seed(0))
    Sampler().sample(logits, [SamplingRow(each, (), (), 0.5) for each in params])
    assert len(answers) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("params", [GREEDY, MIXED, WHOLE])
def test_tokens_of_a_gpu_are_those_of_a_cpu_and_it_is_waited_for_once(params, monkeypatch):
    read = sampler._read

    def allowed(*parts: torch.Tensor):
        torch.cuda.set_sync_debug_mode("default")
        yield from read(*parts)

    monkeypatch.setattr(sampler, "_read", allowed)
    logits = 4 * torch.randn(4 * len(params), VOCAB, generator=torch.Generator().manual_seed(1))
    some = [SamplingRow(each, (), (), (index + 0.5) / 41) for index, each in enumerate(4 * params)]
    expected = Sampler().sample(logits, some)
    on_gpu, chooser = logits.cuda(), Sampler()
    for _ in range(2):
        torch.cuda.set_sync_debug_mode("error")
        try:
            chosen = chooser.sample(on_gpu, some)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert [choice.token_id for choice in chosen] == [choice.token_id for choice in expected]
