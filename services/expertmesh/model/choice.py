"""What a request gets of sampling."""

import msgspec


class Choice(msgspec.Struct, frozen=True, array_like=True):
    """A token and how probable the model found it: natural logarithms, before any parameter of the request.

    ``logprob`` is None unless the request asked for it; ``top_logprobs`` are the most probable (id, logprob), best
    first.
    """

    token_id: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()
