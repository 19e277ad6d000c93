"""What a gateway answers. Knows no transport; ``generation.proto`` says more about each field."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

from expertmesh.client.questions import Message, ToolCall

FinishReason = Literal["stop", "stop_sequence", "length", "tool_calls"]


@dataclass(frozen=True)
class TokenLogprob:
    """A token, the natural logarithm of its probability, and its UTF-8 in the middle of a text."""

    token_id: int
    logprob: float
    token_bytes: bytes


@dataclass(frozen=True)
class TokenLogprobs:
    """The token that stands at one place, and the most probable ones there, best first."""

    token: TokenLogprob
    top: tuple[TokenLogprob, ...]


@dataclass(frozen=True)
class ToolCallPiece:
    """What is new in call ``index`` of an answer: ``id`` and ``name`` in its first piece, then parts of its JSON."""

    index: int
    id: str | None
    name: str | None
    arguments: str


@dataclass(frozen=True)
class Piece:
    """A piece of answer ``index``; ``tool_call_pieces`` are what is new in its calls, which stand behind its text.

    ``logprobs`` and ``routed_experts`` (per layer, the ids of the experts) go with ``token_ids`` one by one where they
    were asked for. ``prompt_logprobs`` come with the first piece of an answer; ``finish_reason``, ``stop`` (the stop
    string that was met) and the counts with its last. ``dropped_experts`` were done without, each so many times as the
    gate had chosen it.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    num_prompt_tokens: int
    num_output_tokens: int
    index: int = 0
    num_cached_tokens: int = 0
    stop: str | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    routed_experts: tuple[tuple[tuple[int, ...], ...], ...] = ()
    tool_call_pieces: tuple[ToolCallPiece, ...] = ()
    dropped_experts: Mapping[int, int] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Answer(Piece):
    """A whole answer: all its pieces in one."""

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """What is to be called; the arguments of the last call may be incomplete, as ``finish_reason`` tells."""
        by_call = groupby(self.tool_call_pieces, key=lambda piece: piece.index)
        return tuple(_join_call(list(pieces)) for _, pieces in by_call)

    @property
    def message(self) -> Message:
        """The answer as a message of the conversation, for what comes after it."""
        return Message("assistant", self.text, tool_calls=self.tool_calls)


def put_together(pieces: Iterable[Piece]) -> list[Answer]:
    """Join the pieces of one or several answers, which may come in turns; returns the answers by their index."""
    by_index = sorted(pieces, key=lambda piece: piece.index)  # stable: the pieces of an answer keep their order
    return [_join(list(answer)) for _, answer in groupby(by_index, key=lambda piece: piece.index)]


def _join(pieces: list[Piece]) -> Answer:
    last = pieces[-1]
    return Answer(
        text="".join(piece.text for piece in pieces),
        token_ids=tuple(token_id for piece in pieces for token_id in piece.token_ids),
        finish_reason=last.finish_reason,
        num_prompt_tokens=last.num_prompt_tokens,
        num_output_tokens=last.num_output_tokens,
        index=last.index,
        num_cached_tokens=last.num_cached_tokens,
        stop=last.stop,
        logprobs=tuple(entry for piece in pieces for entry in piece.logprobs),
        prompt_logprobs=pieces[0].prompt_logprobs,
        routed_experts=tuple(layers for piece in pieces for layers in piece.routed_experts),
        tool_call_pieces=tuple(call for piece in pieces for call in piece.tool_call_pieces),
        dropped_experts=_add_up(piece.dropped_experts for piece in pieces),
    )


def _add_up(parts: Iterable[Mapping[int, int]]) -> dict[int, int]:
    total: Counter[int] = Counter()
    for part in parts:
        total.update(part)
    return dict(total)


def _join_call(pieces: list[ToolCallPiece]) -> ToolCall:
    first = pieces[0]
    return ToolCall(first.id or "", first.name or "", "".join(piece.arguments for piece in pieces))
