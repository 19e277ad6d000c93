import pytest

from expertmesh.engine.blocks import BlockPool
from expertmesh.engine.door import Door
from expertmesh.engine.messages import EngineError, TokenDelta
from expertmesh.engine.observer import Interruption
from expertmesh.engine.request import FinishReason, Limits, Request, Sequence
from expertmesh.engine.scheduler import Scheduler
from expertmesh.engine.scheduler_config import SchedulerConfig
from expertmesh.engine.stats import INTERNAL, INVALID, QUEUE_FULL, EngineStats
from expertmesh.errors import ExpertmeshError, InvalidRequestError, QueueFullError
from expertmesh.model.choice import Choice
from expertmesh.model.sampling import SamplingParams

REQUEST = Request((1, 2, 3), SamplingParams(seed=1))
TOKEN = TokenDelta(Choice(7), finish_reason=None)
OTHER = TokenDelta(Choice(8), finish_reason=None)


class Listener:
    """A recipient that remembers what it heard."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def hand(self, deltas: list[tuple[int, TokenDelta]]) -> None:
        self.heard.append(deltas)

    def refuse(self, request_id: int, error: ExpertmeshError) -> None:
        self.heard.append((request_id, type(error)))


class Hall:
    """A door with the queue and the counts behind it, and a recipient before it."""

    def __init__(self, max_num_waiting: int = 8) -> None:
        self.stats = EngineStats()
        config = SchedulerConfig(max_num_waiting=max_num_waiting).fitted_to("cpu")
        self.scheduler = Scheduler(config, BlockPool(8, 16), self.stats)
        self.door = Door(self.scheduler, Limits(max_model_len=64, vocab_size=32), self.stats)
        self.recipient = Listener()

    def enter(self, request_id: int = 0, request: Request = REQUEST, **more: object) -> Sequence:
        self.door.enter(self.recipient, request_id, request, **more)  # type: ignore[arg-type]
        return next(chunk.sequence for chunk in self.scheduler.schedule()[::-1])

    def count(self) -> dict[str, int]:
        """Say how many sequences ended how."""
        assert not self.scheduler.has_work
        return {outcome.value: count for outcome, count in self.stats.num_finished.items() if count}


@pytest.fixture
def hall() -> Hall:
    return Hall()


def test_tokens_of_a_step_come_together(hall):
    one, two = hall.enter(0), hall.enter(1)
    hall.door.hand_out(one, TOKEN)
    hall.door.hand_out(two, OTHER)
    hall.door.hand_out(one, OTHER)
    assert hall.recipient.heard == []
    hall.door.flush()
    hall.door.flush()
    assert hall.recipient.heard == [[(0, TOKEN), (1, OTHER), (0, OTHER)]]


def test_each_recipient_hears_of_its_own_requests(hall):
    other = Listener()
    one = hall.enter(0)
    hall.door.enter(other, 0, REQUEST)
    [*_, chunk] = hall.scheduler.schedule()
    hall.door.hand_out(one, TOKEN)
    hall.door.hand_out(chunk.sequence, OTHER)
    hall.door.flush()
    assert (hall.recipient.heard, other.heard) == ([[(0, TOKEN)]], [[(0, OTHER)]])


def test_who_leaves_is_counted_once(hall):
    hall.enter()
    hall.door.leave(hall.recipient, 0, FinishReason.STOP_SEQUENCE)
    hall.door.leave(hall.recipient, 0, Interruption.CANCELLED)
    assert hall.count() == {"stop_sequence": 1}


def test_a_recipient_that_is_gone_leaves_with_all_its_requests(hall):
    for request_id in range(3):
        hall.door.hand_out(hall.enter(request_id), TOKEN)
    hall.door.leave_all(hall.recipient)
    hall.door.flush()
    assert hall.recipient.heard == []
    assert hall.count() == {"cancelled": 3}


def test_an_error_comes_once_and_after_the_last_tokens(hall):
    sequence = hall.enter()
    hall.door.hand_out(sequence, TOKEN)
    hall.door.fail(sequence, ExpertmeshError("a step failed"))
    hall.door.fail(sequence, ExpertmeshError("again"))
    assert hall.recipient.heard == [[(0, TOKEN)], (0, ExpertmeshError)]
    assert hall.count() == {"failed": 1}


def test_a_full_queue_refuses_and_counts_it():
    hall = Hall(max_num_waiting=0)
    hall.door.enter(hall.recipient, 3, REQUEST)
    assert hall.recipient.heard == [(3, QueueFullError)]
    assert hall.stats.num_rejected[QUEUE_FULL] == 1


def test_what_cannot_be_served_is_refused_and_counted(hall):
    for request in (Request((), SamplingParams(seed=1)), Request((1,), SamplingParams())):
        hall.door.enter(hall.recipient, 3, request)
    assert hall.recipient.heard == [(3, InvalidRequestError)] * 2
    assert hall.stats.num_rejected[INVALID] == 2


def test_what_fails_on_the_way_in_is_told_as_internal_and_holds_nothing(hall, caplog):
    nonsense = SamplingParams(seed=1, max_tokens="many")
    hall.door.enter(hall.recipient, 3, Request((1, 2), nonsense))
    assert hall.recipient.heard == [(3, EngineError)]
    assert hall.stats.num_rejected[INTERNAL] == 1
    assert not hall.scheduler.has_work
    assert "taking a request in failed" in caplog.text and "TypeError" in caplog.text


class Counted:
    """A constraint that remembers the tokens it was told of."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def advance(self, token_id: int) -> None:
        self.taken.append(token_id)


def test_a_request_with_a_past_goes_on_where_it_was(hall):
    constraint = Counted()
    request = Request((1, 2, 3), SamplingParams(max_tokens=5, seed=1, prompt_logprobs=0))
    sequence = hall.enter(0, request, constraint=constraint, past_ids=(7, 8))
    assert sequence.tokens == [1, 2, 3, 7, 8]
    assert (sequence.num_prompt_tokens, sequence.num_output_tokens, sequence.max_tokens) == (3, 2, 5)
    assert constraint.taken == [7, 8]
    assert sequence.num_unscored == 0  # these went out with the first token
