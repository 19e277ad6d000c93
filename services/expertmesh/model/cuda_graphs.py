"""Recording work as CUDA graphs. Knows torch's way of it, not what the work is."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from expertmesh.errors import ConfigError
from expertmesh.kernels import cuda_devices
from expertmesh.model.recording import Work

_log = logging.getLogger(__name__)


def log_recording(done: int, total: int) -> None:
    """Say how far a recording is; see ``Report``."""
    _log.info("recording CUDA graphs: %d of %d sizes", done, total)


@contextmanager
def needing_memory(remedy: str) -> Iterator[None]:
    """Raise ConfigError with a ``remedy`` where a GPU has too little memory for what is recorded in the body."""
    try:
        yield
    except RuntimeError as error:
        # What ends a broken capture fails as well, and hides what broke it.
        reasons = [reason for reason in (error, error.__context__) if reason and cuda_devices.lacks_memory(reason)]
        if not reasons:
            raise
        raise ConfigError(f"no memory is left to record CUDA graphs: {reasons[0]}; {remedy} would be right") from error


class CudaGraphs:
    """Records work on ``device``; see ``Record``. All graphs share one pool of memory: one runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)
        self._is_done = torch.cuda.Event()

    def __call__(self, work: Work) -> Work:
        """Run ``work`` once as it is, which compiles kernels, and once to record it."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                work()
            torch.cuda.current_stream().wait_stream(self._stream)
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                work()

        def replay() -> None:
            graph.replay()
            self._is_done.record(torch.cuda.current_stream(self._device))
            self._is_done.synchronize()

        return replay
