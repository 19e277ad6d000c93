"""What a client wants generated, checked. Knows fields and their ranges, not how they were sent."""

from collections.abc import Sized
from dataclasses import dataclass

from expertmesh.errors import InvalidRequestError
from expertmesh.model.sampling import SamplingParams
from expertmesh.text.call_format import CallFormat
from expertmesh.text.grammar import Grammar
from expertmesh.text.tokenizer import check_unicode

MAX_SEQUENCES = 64
MAX_STOPS = 16
MAX_STOP_IDS = 1024
MAX_BIASES = 1024
MAX_MESSAGES = 4096
# Of one message.
MAX_PARTS = 1024
MAX_CALLS = 128


def check_count(name: str, elements: Sized, most: int, noun: str = "elements") -> None:
    """Raise InvalidRequestError that names a field with more than ``most`` elements."""
    if len(elements) > most:
        raise InvalidRequestError(f"{name} has {len(elements)} {noun}; at most {most} are taken", name)


@dataclass(frozen=True)
class GenerationRequest:
    """What a client wants: ``n`` answers to a prompt, the most probable ones of ``best_of`` where that is greater.

    ``stop`` strings end an answer and are not part of it. With a seed, answer i is drawn with seed + i. Text that
    ``continues_text`` of the prompt keeps the space before its first word; an answer has none there. Control tokens
    have no text where it ``skips_special_tokens``, else their names. What ends an answer, a stop string or a control
    token, is part of it where it ``includes_stop``. Calls of functions in the form of ``call_format`` are told from
    text. ``no_replica`` says what becomes of it when an expert has no replica, one of ``WORDS``; empty = as the gateway
    is set. The client wants as much for ``num_prompts``, this one included. A reply that ``echoes`` has the prompt
    before each answer.
    """

    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    stop: tuple[str, ...] = ()
    n: int = 1
    best_of: int | None = None
    grammar: Grammar | None = None
    return_routed_experts: bool = False
    no_replica: str = ""
    continues_text: bool = False
    call_format: CallFormat | None = None
    skips_special_tokens: bool = True
    includes_stop: bool = False
    num_prompts: int = 1
    echoes: bool = False

    @property
    def begins_text(self) -> bool:
        """Whether a space before the first word is dropped: a text with a grammar fits it as a whole, without one."""
        return self.grammar is not None or not self.continues_text

    @property
    def num_sequences(self) -> int:
        """Sequences to generate."""
        return self.best_of or self.n

    def validate(self) -> None:
        """Raise InvalidRequestError that names the first field out of its range."""
        if not 1 <= self.n <= MAX_SEQUENCES:
            raise InvalidRequestError(f"n is {self.n}; it must be from 1 to {MAX_SEQUENCES}", "n")
        if self.best_of is not None and not self.n <= self.best_of <= MAX_SEQUENCES:
            raise InvalidRequestError(
                f"best_of is {self.best_of}; it must be from n, {self.n}, to {MAX_SEQUENCES}", "best_of"
            )
        check_count("stop", self.stop, MAX_STOPS, "strings")
        if "" in self.stop:
            raise InvalidRequestError("stop has an empty string; each must have at least one character", "stop")
        check_count("stop_ids", self.sampling.stop_ids, MAX_STOP_IDS)
        check_count("logit_bias", self.sampling.logit_bias, MAX_BIASES)
        self.sampling.validate()
        if self.grammar is not None:
            self._validate_with_grammar()

    def _validate_with_grammar(self) -> None:
        """A grammar says where the answer ends: there, end-of-sequence is all that may come."""
        assert self.grammar is not None
        check_unicode(self.grammar.source)
        if self.sampling.ignore_eos:
            raise InvalidRequestError("ignore_eos is True; with a grammar it must be False", "ignore_eos")
        if self.sampling.min_tokens > 0:
            raise InvalidRequestError(
                f"min_tokens is {self.sampling.min_tokens}; with a grammar it must be 0", "min_tokens"
            )
