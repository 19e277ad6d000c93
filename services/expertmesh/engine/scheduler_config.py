"""How much a step may hold, and the queue before it. Knows settings and their flags, not sequences."""

from dataclasses import dataclass, replace

from expertmesh.settings.flags import LIMITS, SPEED, Flag, setting

# So many rows keep a CPU's cores busy; on a GPU they are still little beside launching kernels and reading weights.
CPU_SEQS, CPU_TOKENS = 64, 512
GPU_SEQS, GPU_TOKENS = 256, 4096

_SEQS = Flag(
    LIMITS, "MAX_NUM_SEQS", f"Sequences computed at once; 0 = {CPU_SEQS} on a CPU, {GPU_SEQS} on a GPU.", min=0
)
_TOKENS = Flag(
    LIMITS,
    "MAX_NUM_BATCHED_TOKENS",
    f"Tokens of one step, longer prompts are computed in chunks; 0 = {CPU_TOKENS} on a CPU, {GPU_TOKENS} on a GPU.",
    min=0,
)
_WAITING = Flag(
    LIMITS, "MAX_NUM_WAITING", "Sequences that may wait to be computed; more are refused as too many.", min=1
)
_DRAFT = Flag(SPEED, "SPECULATE", "Tokens to guess per step from what the text holds already; 0 = none.", min=0, max=64)


@dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    """Bounds of one step: sequences, and new tokens over all of them; and of the queue before it.

    Of the first two 0 means what suits the device; ``fitted_to`` says how much that is, and a scheduler wants to know.
    ``num_draft_tokens`` guessed tokens per sequence are verified in a step, beside the one that it computes anyway.
    """

    max_num_seqs: int = setting(0, _SEQS)
    max_num_batched_tokens: int = setting(0, _TOKENS)
    max_num_waiting: int = setting(256, _WAITING)
    num_draft_tokens: int = setting(0, _DRAFT)

    @property
    def max_held(self) -> int:
        """Sequences that are computed or wait at the most."""
        return self.max_num_seqs + self.max_num_waiting

    def fitted_to(self, device_type: str) -> "SchedulerConfig":
        """Put numbers that suit a device, "cpu" or any other, in place of 0."""
        num_seqs, num_tokens = (CPU_SEQS, CPU_TOKENS) if device_type == "cpu" else (GPU_SEQS, GPU_TOKENS)
        return replace(
            self,
            max_num_seqs=self.max_num_seqs or num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens or num_tokens,
        )
