from expertmesh.engine.messages import EngineError
from expertmesh.engine.observer import Interruption, StepSummary
from expertmesh.engine.request import Caller, FinishReason, Request, Sequence
from expertmesh.engine.stats import ANONYMOUS, INTERNAL, INVALID, QUEUE_FULL, EngineStats, KeyCounts
from expertmesh.errors import InvalidRequestError, QueueFullError
from expertmesh.model.sampling import SamplingParams

NOBODY = Caller()


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make_sequence(num_prompt_tokens: int = 5, caller: Caller = NOBODY) -> Sequence:
    request = Request(tuple(range(num_prompt_tokens)), SamplingParams(), caller=caller)
    return Sequence(request, max_tokens=10, seed=0)


def produce(stats: EngineStats, sequence: Sequence, num_tokens: int) -> None:
    sequence.tokens += [7] * num_tokens
    stats.produced(sequence, num_tokens)


def test_the_times_of_an_answer_are_those_between_its_events():
    clock = Clock()
    stats, sequence = EngineStats(clock), make_sequence()
    stats.arrived(sequence)
    clock.now = 1.0
    stats.admitted(sequence)
    clock.now = 3.0
    produce(stats, sequence, 1)
    clock.now = 7.0
    produce(stats, sequence, 1)
    clock.now = 9.0
    produce(stats, sequence, 2)
    stats.finished(sequence, FinishReason.STOP)
    sums = [
        (values.num_values, values.sum)
        for values in (
            stats.queue_seconds,
            stats.time_to_first_token,
            stats.inter_token_latency,
            stats.time_per_output_token,
            stats.request_seconds,
            stats.prompt_lengths,
            stats.answer_lengths,
        )
    ]
    assert sums == [(1, 1.0), (1, 3.0), (3, 6.0), (1, 2.0), (1, 9.0), (1, 5.0), (1, 4.0)]
    assert (stats.num_prompt_tokens, stats.num_generation_tokens) == (5, 4)
    assert stats.num_finished[FinishReason.STOP] == 1


def test_the_wait_after_a_preemption_is_no_second_arrival():
    stats, sequence = EngineStats(), make_sequence()
    sequence.num_cached_tokens = 4
    stats.arrived(sequence)
    for _ in range(2):
        stats.admitted(sequence)
        stats.preempted(sequence)
    assert stats.queue_seconds.num_values == 1
    assert (stats.num_looked_up_tokens, stats.num_cached_tokens, stats.num_preemptions) == (5, 4, 2)


def test_what_was_cut_short_has_an_outcome_and_no_duration():
    stats = EngineStats()
    for outcome in Interruption:
        sequence = make_sequence()
        stats.arrived(sequence)
        produce(stats, sequence, 2)
        stats.finished(sequence, outcome)
    assert stats.request_seconds.num_values == stats.time_per_output_token.num_values == 0
    assert [stats.num_finished[outcome] for outcome in Interruption] == [1, 1]


def test_refusals_are_counted_by_what_would_help():
    stats = EngineStats()
    wrong, broken = InvalidRequestError("wrong"), EngineError("broken")
    for error in (QueueFullError("full"), wrong, wrong, broken):
        stats.rejected(error)
    assert stats.num_rejected == {QUEUE_FULL: 1, INVALID: 2, INTERNAL: 1}


def test_steps_add_up():
    stats = EngineStats()
    stats.stepped(StepSummary(seconds=0.5, num_rows=8, num_drafted=3, num_accepted=1))
    stats.stepped(StepSummary(seconds=0.25, num_rows=1, num_drafted=0, num_accepted=0))
    assert (stats.step_seconds.sum, stats.step_rows.sum) == (0.75, 9)
    assert (stats.num_drafted_tokens, stats.num_accepted_tokens) == (3, 1)


def test_keys_are_counted_one_by_one_and_addresses_together():
    stats = EngineStats()
    for caller in (Caller("1f2e", has_key=True), Caller("10.0.0.7"), Caller("10.0.0.8"), Caller("1f2e", has_key=True)):
        sequence = make_sequence(5, caller)
        stats.arrived(sequence)
        produce(stats, sequence, 1)
        produce(stats, sequence, 2)
        stats.finished(sequence, FinishReason.STOP)
    counts = KeyCounts(num_finished=2, num_prompt_tokens=10, num_generation_tokens=6)
    assert stats.of_keys == {"1f2e": counts, ANONYMOUS: counts}
