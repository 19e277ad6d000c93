"""What passes through the engine's door, in both directions: values that msgspec makes bytes of. Knows no socket."""

import msgspec

from expertmesh import errors
from expertmesh.engine.request import FinishReason, Request, Route
from expertmesh.errors import ExpertmeshError, InvalidRequestError
from expertmesh.model.choice import Choice


class EngineError(ExpertmeshError):
    """Something in the engine failed for a reason that nobody foresaw; the log has the details."""


class TokenDelta(msgspec.Struct, frozen=True, array_like=True):
    """The next token of a sequence; ``finish_reason`` is set with the last one.

    ``num_cached_tokens`` of the prompt were not computed anew. ``prompt_logprobs`` (for prompt tokens 1, 2, ...) come
    with the first token, where they are wanted; so do the experts asked for each token, ``routed_experts`` [L][A].
    ``dropped_experts`` are pairs: an expert, and how many choices of it were done without since the last token.
    """

    choice: Choice
    finish_reason: FinishReason | None
    num_cached_tokens: int = 0
    prompt_logprobs: tuple[Choice, ...] | None = None
    routed_experts: Route | None = None
    dropped_experts: tuple[tuple[int, int], ...] = ()


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    """Put a request under a number of the sender's; its seed is set. ``past_ids`` were produced by an engine before."""

    id: int
    request: Request
    past_ids: tuple[int, ...] = ()


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Want no more of a request, for a reason that is counted: the value of an ``Outcome``."""

    id: int
    outcome: str


class Tokens(msgspec.Struct, frozen=True, tag="tokens"):
    """Tokens of one step, each under the number of its request."""

    deltas: list[tuple[int, TokenDelta]]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """A request was refused, or ended by an error."""

    id: int
    error: "ErrorInfo"


class ErrorInfo(msgspec.Struct, frozen=True):
    """An error of ours: the name of its class, its words, and the field that is to blame, where there is one."""

    kind: str
    message: str
    param: str | None = None


_KINDS: dict[str, type[ExpertmeshError]] = {
    name: kind
    for name, kind in (*vars(errors).items(), (EngineError.__name__, EngineError))
    if isinstance(kind, type) and issubclass(kind, ExpertmeshError)
}


def encode_error(error: ExpertmeshError) -> ErrorInfo:
    """Describe an error; one of a class that is not in ``expertmesh.errors`` by the nearest that is."""
    kind = next(kind.__name__ for kind in type(error).__mro__ if _KINDS.get(kind.__name__) is kind)
    return ErrorInfo(kind, str(error), error.param if isinstance(error, InvalidRequestError) else None)


def decode_error(info: ErrorInfo) -> ExpertmeshError:
    """Make the error that was described."""
    kind = _KINDS.get(info.kind, EngineError)
    return kind(info.message, info.param) if issubclass(kind, InvalidRequestError) else kind(info.message)
