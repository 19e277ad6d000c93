"""The gateway with stopwatches on it: ``expertmesh`` run in this process, its functions wrapped from outside.

Usage: python -m serving.timed_gateway TRACE gateway FLAG...; writes the spans of a ``Trace`` when it ends.
"""

import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import wraps
from pathlib import Path
from time import perf_counter
from typing import Any

from expertmesh.cli.main import main as run_command
from expertmesh.gateway import runner
from expertmesh.gateway.dispatcher import RemoteExperts
from expertmesh.gateway.runner import ModelRunner
from expertmesh.model.decoder import Decoder
from serving.trace import Span, Trace

# All that the gateway computes in a step. They are private because nobody else needs them apart.
DECODER_PARTS = ("_embed", "_attend_and_choose", "_logits")


def attach(trace: Trace) -> None:
    """Note the spans of every later step in ``trace``."""
    for name in DECODER_PARTS:
        wrap(Decoder, name, timed, trace.torch)
    wrap(runner, "sample", timed, trace.torch)
    wrap(RemoteExperts, "__call__", awaited, trace.rpc)
    wrap(ModelRunner, "run", counted, trace.steps)


def wrap(owner: Any, name: str, wrapper: Callable[..., Any], notes: list[Any]) -> None:
    """Put the wrapped function in the place of the bare one."""
    setattr(owner, name, wrapper(getattr(owner, name), notes))


def timed(function: Callable[..., Any], spans: list[Span]) -> Callable[..., Any]:
    """Wrap a function so that its calls are noted."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        started = perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spans.append((started, perf_counter()))

    return call


def awaited(function: Callable[..., Awaitable[Any]], spans: list[Span]) -> Callable[..., Awaitable[Any]]:
    """Wrap a coroutine function so that its calls are noted, from call to result."""

    @wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        started = perf_counter()
        try:
            return await function(*args, **kwargs)
        finally:
            spans.append((started, perf_counter()))

    return call


def counted(
    function: Callable[..., Awaitable[Any]], steps: list[tuple[float, int, int]]
) -> Callable[..., Awaitable[Any]]:
    """Wrap ``ModelRunner.run`` so that the start and the size of each step are noted."""

    @wraps(function)
    async def call(self: ModelRunner, chunks: Sequence[Any]) -> Any:
        steps.append((perf_counter(), len(chunks), sum(chunk.num_tokens for chunk in chunks)))
        return await function(self, chunks)

    return call


def main() -> None:
    """Run the command that follows, until it is told to end."""
    path = Path(sys.argv.pop(1))
    trace = Trace()
    attach(trace)
    try:
        run_command()
    finally:
        trace.write(path)


if __name__ == "__main__":
    main()
