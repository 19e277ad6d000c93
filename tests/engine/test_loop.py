"""The loop and its runner on a small decoder, with experts that can be made to fail."""

import threading
import time
from collections.abc import Callable

import pytest
import torch

from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.engine.blocks import BlockPool
from expertmesh.engine.door import Door
from expertmesh.engine.inbox import Inbox
from expertmesh.engine.loop import Engine
from expertmesh.engine.messages import EngineError, TokenDelta
from expertmesh.engine.observer import Interruption
from expertmesh.engine.request import Caller, FinishReason, Limits, Request
from expertmesh.engine.runner import ModelRunner
from expertmesh.engine.scheduler import Scheduler
from expertmesh.engine.scheduler_config import SchedulerConfig
from expertmesh.engine.stats import EngineStats
from expertmesh.errors import ComputeError, ExpertmeshError
from expertmesh.kernels.reference import ReferenceBackend
from expertmesh.model.decoder import Decoder
from expertmesh.model.experts import Experts, LayerCall, LocalExperts, Pending
from expertmesh.model.kv_cache import KVCache
from expertmesh.model.sampling import SamplingParams

BLOCK_SIZE, NUM_BLOCKS = 16, 64


class Listener:
    """A recipient that remembers what it heard, and does something at each batch of tokens."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.tokens: dict[int, list[TokenDelta]] = {}
        self.errors: dict[int, ExpertmeshError] = {}
        self._then = then

    def hand(self, deltas: list[tuple[int, TokenDelta]]) -> None:
        for request_id, delta in deltas:
            self.tokens.setdefault(request_id, []).append(delta)
        self._then()

    def refuse(self, request_id: int, error: ExpertmeshError) -> None:
        self.errors[request_id] = error

    def ids(self, request_id: int) -> list[int]:
        return [delta.choice.token_id for delta in self.tokens[request_id]]


class TroubledExperts:
    """Experts that fail the calls for which ``fails`` has an error, and count those that are left open."""

    def __init__(self, experts: Experts, fails: Callable[[LayerCall], Exception | None]) -> None:
        self.num_open = 0
        self._experts = experts
        self._fails = fails

    def begin(self, call: LayerCall) -> "TroubledCall":
        self.num_open += 1
        return TroubledCall(self, self._experts.begin(call), self._fails(call))


class TroubledCall:
    """Rows on their way, or an error."""

    def __init__(self, experts: TroubledExperts, pending: Pending, error: Exception | None) -> None:
        self._experts, self._pending, self._error = experts, pending, error

    def finish(self) -> torch.Tensor:
        self._experts.num_open -= 1
        if self._error:
            raise self._error
        return self._pending.finish()

    def abandon(self) -> None:
        self._experts.num_open -= 1
        self._pending.abandon()


class Workshop:
    """An engine and all its parts, run in this thread until everything is done that was put."""

    def __init__(
        self,
        directory,
        num_micro_batches: int = 1,
        fails: Callable[[LayerCall], Exception | None] = lambda call: None,
        max_num_seqs: int = 64,
    ) -> None:
        checkpoint = Checkpoint.open(directory)
        config, backend = checkpoint.model, ReferenceBackend(torch.device("cpu"))
        decoder = Decoder.load(config, checkpoint, backend, torch.float32)
        self.experts = TroubledExperts(LocalExperts.load(config, checkpoint, backend), fails)
        cache = KVCache(config, NUM_BLOCKS, BLOCK_SIZE, torch.float32, backend.device)
        runner = ModelRunner(decoder, cache, self.experts, backend.device, frozenset(), num_micro_batches)
        self.stats, self.blocks, self.inbox = EngineStats(), BlockPool(NUM_BLOCKS, BLOCK_SIZE), Inbox()
        limits = SchedulerConfig(max_num_seqs=max_num_seqs).fitted_to("cpu")
        self.scheduler = Scheduler(limits, self.blocks, self.stats)
        self.door = Door(self.scheduler, Limits(128, config.vocab_size), self.stats)
        self.engine = Engine(runner, self.scheduler, self.door, self.inbox, frozenset(), self.stats)

    def put(
        self, recipient: Listener, request_id: int, max_tokens: int = 6, first_id: int = 5, caller: str = ""
    ) -> None:
        sampling = SamplingParams(max_tokens=max_tokens, ignore_eos=True, seed=1)
        request = Request((1, first_id, 9), sampling, caller=Caller(caller))
        self.inbox.put(lambda: self.door.enter(recipient, request_id, request))

    def run(self) -> None:
        """Run until nothing is left to do."""
        thread = threading.Thread(target=self.engine.run)
        thread.start()
        deadline = time.monotonic() + 60
        while not self._is_idle() and time.monotonic() < deadline:
            time.sleep(0.001)
        self.inbox.close()
        thread.join()
        assert not self.scheduler.has_work
        assert self.blocks.num_free == NUM_BLOCKS
        assert self.experts.num_open == 0

    def _is_idle(self) -> bool:
        """Ask between two steps."""
        idle: list[bool] = []
        self.inbox.put(lambda: idle.append(not self.scheduler.has_work))
        while not idle:
            time.sleep(0.001)
        return idle[0]


@pytest.fixture(scope="module")
def directory(make_mixtral):
    return make_mixtral().directory


def broken_at(num_rows: int, error: Exception) -> Callable[[LayerCall], Exception | None]:
    """Fail the first call with so many rows."""
    errors = [error]
    return lambda call: errors.pop() if errors and len(call.hidden) == num_rows else None


@pytest.mark.parametrize("num_micro_batches", [1, 2, 3])
def test_requests_are_answered_each_with_its_own_tokens(directory, num_micro_batches):
    workshop, recipient = Workshop(directory, num_micro_batches), Listener()
    for request_id in range(4):
        workshop.put(recipient, request_id, max_tokens=3 + request_id, first_id=5 + request_id)
    workshop.run()
    assert [len(recipient.ids(request_id)) for request_id in range(4)] == [3, 4, 5, 6]
    assert {recipient.tokens[request_id][-1].finish_reason for request_id in range(4)} == {FinishReason.LENGTH}
    alone = Listener()
    one = Workshop(directory)
    one.put(alone, 0, first_id=8)
    one.run()
    assert alone.ids(0) == recipient.ids(3)
    assert workshop.stats.num_generation_tokens == 3 + 4 + 5 + 6


@pytest.mark.parametrize(
    ("error", "told"), [(ComputeError("NaN"), ComputeError), (ZeroDivisionError(), EngineError)], ids=["ours", "other"]
)
@pytest.mark.parametrize("num_micro_batches", [1, 2])
def test_a_step_that_fails_ends_the_requests_in_it(directory, error, told, num_micro_batches, caplog):
    workshop, recipient = Workshop(directory, num_micro_batches, fails=broken_at(3, error)), Listener()
    for request_id in range(num_micro_batches):  # three rows each, a part each
        workshop.put(recipient, request_id)
    workshop.run()
    assert [type(error) for error in recipient.errors.values()] == [told] * num_micro_batches
    assert f"{num_micro_batches} requests end: {recipient.errors[0]}" in caplog.text
    assert not recipient.tokens
    assert workshop.stats.num_finished[Interruption.FAILED] == num_micro_batches


def test_after_a_failed_step_the_next_request_is_answered(directory):
    workshop, recipient = Workshop(directory, fails=broken_at(3, ComputeError("NaN"))), Listener()
    workshop.put(recipient, 0)
    thread = threading.Thread(target=workshop.engine.run)
    thread.start()
    while 0 not in recipient.errors:
        time.sleep(0.001)
    workshop.put(recipient, 1)
    while len(recipient.tokens.get(1, ())) < 6:
        time.sleep(0.001)
    workshop.inbox.close()
    thread.join()
    assert not workshop.scheduler.has_work


@pytest.mark.parametrize("lost", [torch.AcceleratorError, RuntimeError], ids=["torch", "triton"])
def test_a_lost_gpu_ends_the_requests_of_the_step_and_the_engine(directory, lost):
    error = lost("Triton Error [CUDA]: an illegal memory access was encountered")
    workshop, recipient = Workshop(directory, fails=broken_at(3, error)), Listener()
    workshop.put(recipient, 0)
    with pytest.raises(lost, match="illegal memory access"):
        workshop.engine.run()
    assert [type(error) for error in recipient.errors.values()] == [EngineError]


class Broken:
    """A constraint that fails at once, for a reason that nobody foresaw."""

    def advance(self, token_id: int) -> None:
        raise ZeroDivisionError


def test_a_request_that_fails_on_its_way_in_fails_alone(directory):
    workshop, recipient = Workshop(directory), Listener()
    request = Request((1, 5, 9), SamplingParams(max_tokens=6, seed=1))
    workshop.put(recipient, 0)
    workshop.inbox.put(lambda: workshop.door.enter(recipient, 1, request, Broken(), past_ids=(7,)))
    workshop.put(recipient, 2)
    workshop.run()
    assert [type(error) for error in recipient.errors.values()] == [EngineError]
    assert str(recipient.errors[1]) == "internal error (ZeroDivisionError); the gateway's log says more"
    assert len(recipient.ids(0)) == len(recipient.ids(2)) == 6


def test_who_gives_way_to_another_caller_says_the_same_and_the_other_waits_for_no_end(directory):
    workshop, said = Workshop(directory, max_num_seqs=2), []
    probe = Listener(then=lambda: said.append("p"))

    def probe_twice() -> None:
        said.append("f")
        if said.count("f") in (3, 9):
            workshop.put(probe, len(said), max_tokens=2, caller="probe")

    flood = Listener(then=probe_twice)
    for request_id in range(4):
        workshop.put(flood, request_id, max_tokens=20, first_id=5 + request_id, caller="flood")
    workshop.run()
    # Each probe has its tokens in the next two steps.
    assert "".join(said[:15]) == "".join(("fff", "fpfp", "ffff", "fpfp"))
    assert workshop.stats.num_preemptions == 2
    for request_id in range(4):
        alone, one = Listener(), Workshop(directory)
        one.put(alone, 0, max_tokens=20, first_id=5 + request_id)
        one.run()
        assert flood.ids(request_id) == alone.ids(0)


def test_who_leaves_between_steps_gets_nothing_more(directory):
    workshop = Workshop(directory)
    leaver = Listener(then=lambda: workshop.inbox.put(lambda: workshop.door.leave_all(leaver)))
    stayer = Listener()
    workshop.put(leaver, 0, max_tokens=100)
    workshop.put(stayer, 0, max_tokens=8)
    workshop.run()
    assert (len(leaver.ids(0)), len(stayer.ids(0))) == (1, 8)
    assert workshop.stats.num_finished[Interruption.CANCELLED] == 1


def test_a_step_that_fails_because_the_engine_ends_fails_no_request(directory):
    recipient = Listener()

    def fail_at_the_end(call: LayerCall) -> Exception | None:
        workshop.inbox.close()
        return ComputeError("the replicas are gone")

    workshop = Workshop(directory, fails=fail_at_the_end)
    workshop.put(recipient, 0)
    workshop.engine.run()
    assert not recipient.errors and workshop.scheduler.has_work
