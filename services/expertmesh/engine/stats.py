"""What the engine has done so far: counts and durations. Knows what an observer is told, not who reads it."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from expertmesh.counting.histogram import Histogram
from expertmesh.engine.messages import EngineError
from expertmesh.engine.observer import OUTCOMES, Interruption, Outcome, StepSummary
from expertmesh.engine.request import Caller, Sequence
from expertmesh.errors import ExpertmeshError, QueueFullError

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
TOKEN_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 20.0, 120.0)
TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)

QUEUE_FULL, INVALID, INTERNAL = "queue_full", "invalid", "internal"
_REASONS = ((QueueFullError, QUEUE_FULL), (EngineError, INTERNAL))


# Those without a key count together: their addresses are as many as they like.
ANONYMOUS = "anonymous"


def counted_as(caller: Caller) -> str:
    """Return what a caller's requests are counted under: the id of its key."""
    return caller.id if caller.has_key else ANONYMOUS


@dataclass
class KeyCounts:
    """Sequences of one key that ended, and tokens: of prompts whose answer has begun, and of answers."""

    num_finished: int = 0
    num_prompt_tokens: int = 0
    num_generation_tokens: int = 0


@dataclass
class _Times:
    """When things happened to a sequence, in seconds of the clock."""

    arrived: float
    is_admitted: bool = False
    first_token: float | None = None
    last_token: float = 0.0


class EngineStats:
    """An observer that counts; ``clock`` is in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.num_prompt_tokens = 0
        self.num_generation_tokens = 0
        self.num_looked_up_tokens = 0
        self.num_cached_tokens = 0
        self.num_drafted_tokens = 0
        self.num_accepted_tokens = 0
        self.num_preemptions = 0
        self.num_finished: Counter[Outcome] = Counter(dict.fromkeys(OUTCOMES.values(), 0))
        self.num_rejected: Counter[str] = Counter({QUEUE_FULL: 0, INVALID: 0, INTERNAL: 0})
        self.of_keys: defaultdict[str, KeyCounts] = defaultdict(KeyCounts, {ANONYMOUS: KeyCounts()})
        self.time_to_first_token = Histogram(SECONDS)
        self.inter_token_latency = Histogram(TOKEN_SECONDS)
        self.time_per_output_token = Histogram(TOKEN_SECONDS)
        self.request_seconds = Histogram(SECONDS)
        self.queue_seconds = Histogram((0.001, *SECONDS))
        self.prompt_lengths = Histogram(TOKENS)
        self.answer_lengths = Histogram(TOKENS)
        self.step_seconds = Histogram(TOKEN_SECONDS)
        self.step_rows = Histogram(TOKENS)
        self._clock = clock
        self._times: dict[Sequence, _Times] = {}

    def arrived(self, sequence: Sequence) -> None:
        """Start the clock of a sequence."""
        self._times[sequence] = _Times(self._clock())

    def rejected(self, error: ExpertmeshError) -> None:
        """Count a refusal by what would help: to wait, to mend the engine, or to ask for something else."""
        self.num_rejected[next((why for kind, why in _REASONS if isinstance(error, kind)), INVALID)] += 1

    def admitted(self, sequence: Sequence) -> None:
        """Note the end of the wait, and what was known of the prompt; not again after a preemption."""
        times = self._times[sequence]
        if times.is_admitted:
            return
        times.is_admitted = True
        self.queue_seconds.observe(self._clock() - times.arrived)
        self.num_looked_up_tokens += sequence.num_prompt_tokens
        self.num_cached_tokens += sequence.num_cached_tokens

    def preempted(self, sequence: Sequence) -> None:
        """Count it."""
        self.num_preemptions += 1

    def produced(self, sequence: Sequence, num_tokens: int) -> None:
        """Count tokens, and the gaps before them: tokens of one step come at once, after one gap."""
        times, now = self._times[sequence], self._clock()
        of_key = self.of_keys[counted_as(sequence.request.caller)]
        self.num_generation_tokens += num_tokens
        of_key.num_generation_tokens += num_tokens
        if times.first_token is None:
            times.first_token = now
            self.num_prompt_tokens += sequence.num_prompt_tokens
            of_key.num_prompt_tokens += sequence.num_prompt_tokens
            self.time_to_first_token.observe(now - times.arrived)
        else:
            self.inter_token_latency.observe(now - times.last_token)
        for _ in range(num_tokens - 1):
            self.inter_token_latency.observe(0.0)
        times.last_token = now

    def finished(self, sequence: Sequence, outcome: Outcome) -> None:
        """Count an end; durations and lengths are those of answers that are complete."""
        times = self._times.pop(sequence)
        self.num_finished[outcome] += 1
        self.of_keys[counted_as(sequence.request.caller)].num_finished += 1
        if isinstance(outcome, Interruption) or times.first_token is None:
            return
        self.request_seconds.observe(self._clock() - times.arrived)
        self.prompt_lengths.observe(sequence.num_prompt_tokens)
        self.answer_lengths.observe(sequence.num_output_tokens)
        if sequence.num_output_tokens > 1:
            gaps = sequence.num_output_tokens - 1
            self.time_per_output_token.observe((times.last_token - times.first_token) / gaps)

    def stepped(self, step: StepSummary) -> None:
        """Count a step."""
        self.step_seconds.observe(step.seconds)
        self.step_rows.observe(step.num_rows)
        self.num_drafted_tokens += step.num_drafted
        self.num_accepted_tokens += step.num_accepted
