"""How much a step may hold, and the queue before it. Knows settings and their flags, not sequences."""

from dataclasses import dataclass, replace

from expertmesh.errors import QueueFullError
from expertmesh.settings.flags import LIMITS, SPEED, Flag, setting

# So many rows keep a CPU's cores busy; on a GPU they are still little beside launching kernels and reading weights.
CPU_SEQS, CPU_TOKENS = 64, 512
GPU_SEQS, GPU_TOKENS = 256, 4096

# One more sequence of a caller may wait while its own are fewer than so many times the places that are free.
ROOM_SHARE = 4

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
_WAITING_PER_KEY = Flag(
    LIMITS,
    "MAX_WAITING_PER_KEY",
    "Those of them that may be of one key, or without keys from one address; 0 = no limit but that one fills four "
    "fifths of the queue at most, and less the more others wait.",
    min=0,
)
_DRAFT = Flag(SPEED, "SPECULATE", "Tokens to guess per step from what the text holds already; 0 = none.", min=0, max=64)


@dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    """Bounds of one step: sequences, and new tokens over all of them; and of the queue before it.

    ``max_waiting_per_key`` bounds what waits of one caller, beside what ``check_room`` says; 0 does not.
    Of the first two 0 means what suits the device; ``fitted_to`` says how much that is, and a scheduler wants to know.
    ``num_draft_tokens`` guessed tokens per sequence are verified in a step, beside the one that it computes anyway.
    """

    max_num_seqs: int = setting(0, _SEQS)
    max_num_batched_tokens: int = setting(0, _TOKENS)
    max_num_waiting: int = setting(256, _WAITING)
    max_waiting_per_key: int = setting(0, _WAITING_PER_KEY)
    num_draft_tokens: int = setting(0, _DRAFT)

    @property
    def max_held(self) -> int:
        """Sequences of one caller that are computed or wait at the most."""
        num_alone = -(-self.max_num_waiting * ROOM_SHARE // (ROOM_SHARE + 1))
        return self.max_num_seqs + min(self.max_waiting_per_key or num_alone, num_alone)

    def check_room(self, num_own: int, num_waiting: int) -> None:
        """Raise QueueFullError unless a sequence may wait whose caller has ``num_own`` among ``num_waiting`` already.

        A caller may take a multiple of what it leaves free, which bounds one as well as many of them, and leaves room
        for the next ("Dynamic Queue Length Thresholds for Shared-Memory Packet Switches", Choudhury and Hahne, 1998).
        """
        if self.max_waiting_per_key and num_own >= self.max_waiting_per_key:
            raise QueueFullError(
                f"{num_own} sequences of this caller wait already, which is the limit for one "
                "(--max-waiting-per-key); try again later"
            )
        if num_own >= ROOM_SHARE * (self.max_num_waiting - num_waiting):
            raise QueueFullError(
                f"{num_waiting} sequences wait already, {num_own} of them this caller's; {self.max_num_waiting} may "
                "(--max-num-waiting), with some room kept for callers who have fewer; try again later"
            )

    def fitted_to(self, device_type: str) -> "SchedulerConfig":
        """Put numbers that suit a device, "cpu" or any other, in place of 0."""
        num_seqs, num_tokens = (CPU_SEQS, CPU_TOKENS) if device_type == "cpu" else (GPU_SEQS, GPU_TOKENS)
        return replace(
            self,
            max_num_seqs=self.max_num_seqs or num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens or num_tokens,
        )
