"""What passes between an engine and the processes that try grammars for it. Knows no process."""

import msgspec


class TrialSettings(msgspec.Struct, frozen=True):
    """What grammars are tried with: the tokenizer in ``directory``, for a model of ``vocab_size`` ids, and the limits.

    Time is that of a processor; memory is what is taken beyond the tokenizer.
    """

    directory: str
    eos_ids: list[int]
    vocab_size: int
    max_seconds: int = 2
    max_bytes: int = 512 << 20


class Candidate(msgspec.Struct, frozen=True):
    """A grammar to try: the value of its ``GrammarKind``, and its source."""

    kind: str
    source: str


class Verdict(msgspec.Struct, frozen=True):
    """How a trial ended: with what it took at most, or with what is wrong with the grammar, or by a failure of ours.

    ``param`` is the field of the request that is to blame, where the refusal names one.
    """

    num_bytes: int = 0
    refusal: str | None = None
    param: str | None = None
    failure: str | None = None
