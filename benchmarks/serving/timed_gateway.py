"""A gateway with stopwatches on its engine: ``expertmesh`` run in this process, its functions wrapped from outside.

Usage: python -m serving.timed_gateway TRACE gateway FLAG...; writes the spans of a ``Trace`` when it ends.
"""

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial, wraps
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

from expertmesh.cli import gateway_processes
from expertmesh.cli.main import main as run_command
from expertmesh.engine.runner import ModelRunner
from expertmesh.engine.scheduler import Chunk
from expertmesh.mesh.dispatcher import RemoteExperts
from expertmesh.mesh.layer_step import LayerStep
from expertmesh.model.decoder import Decoder
from expertmesh.model.sampler import Sampler
from serving.trace import Trace

Function = Callable[..., Any]

# Where the engine process writes its trace; set, it marks that process.
TRACE_VARIABLE = "TIMED_GATEWAY_TRACE"
# All that an engine computes in a step.
DECODER_PARTS = ("embed", "angles", "attend_and_choose", "logits")


class Stopwatch:
    """Wraps functions so that their calls are noted in ``trace``."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._torch_cpu = 0.0

    def attach(self) -> None:
        """Note every later step of this process."""
        for name in DECODER_PARTS:
            _wrap(Decoder, name, self._timed)
        _wrap(Sampler, "sample", self._timed)
        _wrap(RemoteExperts, "begin", self._awaited)
        _wrap(LayerStep, "finish", self._awaited)
        _wrap(ModelRunner, "run", self._counted)

    def _timed(self, function: Function) -> Function:
        """Note when a function computes, and its processor time."""

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            started, cpu = perf_counter(), thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self._trace.torch.append((started, perf_counter()))
                self._torch_cpu += thread_time() - cpu

        return call

    def _awaited(self, function: Function) -> Function:
        """Note when rows are on their way to experts or back."""

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            started = perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._trace.rpc.append((started, perf_counter()))

        return call

    def _counted(self, function: Function) -> Function:
        """Note the start and the size of each step of ``ModelRunner.run``."""

        @wraps(function)
        def call(model_runner: ModelRunner, chunks: Sequence[Chunk], *arguments: Any) -> Any:
            num_rows = sum(chunk.num_rows for chunk in chunks)
            self._trace.steps.append((perf_counter(), len(chunks), num_rows, thread_time() - self._torch_cpu))
            return function(model_runner, chunks, *arguments)

        return call


def _wrap(owner: Any, name: str, wrapper: Callable[[Function], Function]) -> None:
    setattr(owner, name, wrapper(getattr(owner, name)))


def main() -> None:
    """Run the command that follows, and have its engine process run this module too."""
    if path := os.environ.get(TRACE_VARIABLE):
        time_engine(Path(path))
        return
    os.environ[TRACE_VARIABLE] = sys.argv.pop(1)
    _wrap(gateway_processes, "Commands", lambda commands: partial(commands, module="serving.timed_gateway"))
    run_command()


def time_engine(path: Path) -> None:
    """Run an engine process, and write what it did where its time went."""
    trace = Trace()
    Stopwatch(trace).attach()
    try:
        gateway_processes.main()
    finally:
        trace.write(path)


if __name__ == "__main__":
    main()
