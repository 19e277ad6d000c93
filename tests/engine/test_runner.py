"""Steps through the runner with experts on the device of the decoder: static or not, noted, traced or failing."""

import pytest
import torch
from device_ffn import OnDevice, on_device, rows_of

from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.engine.blocks import BlockPool
from expertmesh.engine.door import Door
from expertmesh.engine.inbox import Inbox
from expertmesh.engine.loop import Engine
from expertmesh.engine.messages import EngineError, TokenDelta
from expertmesh.engine.request import Limits, Request
from expertmesh.engine.runner import ModelRunner
from expertmesh.engine.scheduler import Scheduler
from expertmesh.engine.scheduler_config import SchedulerConfig
from expertmesh.engine.stats import EngineStats
from expertmesh.kernels.cpu import CpuBackend
from expertmesh.mesh.counted_experts import CountedExperts
from expertmesh.mesh.expert_load import ExpertLoadCounter
from expertmesh.model.decoder import Decoder
from expertmesh.model.experts import LocalExperts
from expertmesh.model.kv_cache import KVCache
from expertmesh.model.sampling import SamplingParams
from expertmesh.model.static_steps import StaticSteps
from expertmesh.tracing.tracer import NullSpan

BLOCK_SIZE, NUM_BLOCKS, NUM_SEQUENCES, MAX_TOKENS = 16, 64, 3, 5
TRACEPARENT = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"


class Tracer:
    """Notes the names of spans."""

    is_on = True

    def __init__(self) -> None:
        self.names: list[str] = []

    def start(self, name, parent, attributes, kind=None, links=(), at_ns=None):
        self.names.append(name)
        span = NullSpan()
        span.traceparent = TRACEPARENT
        return span


class Replays:
    """Repeats work by doing it, and counts how often."""

    def __init__(self) -> None:
        self.num = 0

    def __call__(self, work):
        def replay() -> None:
            self.num += 1
            work()

        return replay


class Workshop:
    """An engine with experts on its device, or asked by the host; with static steps, or without."""

    def __init__(self, directory, asks_device: bool, is_static: bool, num_parts: int = 1) -> None:
        checkpoint = Checkpoint.open(directory)
        config, backend, dtype = checkpoint.model, CpuBackend(), torch.float32
        decoder, local = (
            Decoder.load(config, checkpoint, backend, dtype),
            LocalExperts.load(config, checkpoint, backend),
        )
        self.load = ExpertLoadCounter(config.num_layers, config.num_experts)
        experts = on_device(local, self.load) if asks_device else CountedExperts(local, self.load)
        cache = KVCache(config, NUM_BLOCKS, BLOCK_SIZE, dtype, backend.device)
        self.replays, self.tracer = Replays(), Tracer()
        steps = None
        if is_static:
            whole = experts if asks_device else None
            steps = StaticSteps(decoder, cache, 8, NUM_SEQUENCES, num_parts, whole, self.replays)
        self.runner = ModelRunner(decoder, cache, experts, backend.device, frozenset(), num_parts, steps, self.tracer)
        self._limits = Limits(128, config.vocab_size)

    def run(self, **fields) -> tuple[dict[int, list[TokenDelta]], list[Exception]]:
        """Answer some requests in one thread; returns what was handed out and what failed."""
        stats, blocks, inbox = EngineStats(), BlockPool(NUM_BLOCKS, BLOCK_SIZE), Inbox()
        scheduler = Scheduler(SchedulerConfig().fitted_to("cpu"), blocks, stats)
        door = Door(scheduler, self._limits, stats)
        caller = Caller(inbox)
        for number in range(NUM_SEQUENCES):
            sampling = SamplingParams(max_tokens=MAX_TOKENS, ignore_eos=True, seed=number, temperature=1.0)
            request = Request((1, 5 + number, 9), sampling, **fields)
            inbox.put(lambda number=number, request=request: door.enter(caller, number, request))
        Engine(self.runner, scheduler, door, inbox, frozenset(), stats, self.tracer).run()
        return caller.tokens, caller.errors


class Caller:
    """Closes the engine once everybody has been answered."""

    def __init__(self, inbox: Inbox) -> None:
        self.tokens: dict[int, list[TokenDelta]] = {}
        self.errors: list[Exception] = []
        self._inbox = inbox
        self._num_open = NUM_SEQUENCES

    def hand(self, deltas: list[tuple[int, TokenDelta]]) -> None:
        for number, delta in deltas:
            self.tokens.setdefault(number, []).append(delta)
            self._left(delta.finish_reason is not None)

    def refuse(self, number: int, error: Exception) -> None:
        self.errors.append(error)
        self._left(True)

    def _left(self, is_over: bool) -> None:
        self._num_open -= is_over
        if not self._num_open:
            self._inbox.close()


@pytest.fixture(scope="module")
def directory(make_mixtral):
    return make_mixtral().directory


@pytest.mark.parametrize("fields", [{}, {"return_routed_experts": True}, {"traceparent": TRACEPARENT}], ids=str)
@pytest.mark.parametrize("num_parts", [1, 2])
def test_tokens_routes_and_counts_are_the_same_whoever_asks_the_experts(directory, fields, num_parts):
    asked = Workshop(directory, asks_device=False, is_static=False, num_parts=num_parts)
    expected = asked.run(**fields)
    for asks_device, is_static in ((True, False), (True, True), (False, True)):
        workshop = Workshop(directory, asks_device, is_static, num_parts)
        assert workshop.run(**fields) == expected
        assert torch.equal(rows_of(workshop.load), rows_of(asked.load))


@pytest.mark.parametrize(
    ("fields", "asks_device", "num_replays"),
    [
        ({}, True, 1),
        ({"return_routed_experts": True}, True, 1),
        ({"traceparent": TRACEPARENT}, True, 0),  # each layer has its span
        ({"traceparent": TRACEPARENT}, False, 3),
        ({"return_routed_experts": True}, False, 3),
    ],
)
def test_decode_steps_are_replayed_unless_spans_want_to_see_their_layers(directory, fields, asks_device, num_replays):
    workshop = Workshop(directory, asks_device, is_static=True)
    workshop.run(**fields)
    num_layers = workshop.load.num_layers
    assert workshop.replays.num == num_replays * (MAX_TOKENS - 1)
    assert workshop.tracer.names.count("layer dispatch") == ("traceparent" in fields) * num_layers * MAX_TOKENS


def test_a_step_that_fails_between_layers_leaves_nothing_to_the_next(directory, monkeypatch):
    workshop = Workshop(directory, asks_device=True, is_static=False)
    untouched = Workshop(directory, asks_device=True, is_static=False)
    run_chosen, num_calls = OnDevice.run_chosen, 0

    def fail_second(self, *args, **options):
        nonlocal num_calls
        num_calls += 1
        if num_calls == 2:
            raise ZeroDivisionError
        return run_chosen(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(OnDevice, "run_chosen", fail_second)
        tokens, errors = workshop.run()
    assert not tokens and [type(error) for error in errors] == [EngineError] * NUM_SEQUENCES
    assert workshop.run() == untouched.run()
    assert torch.equal(rows_of(workshop.load), rows_of(untouched.load))
