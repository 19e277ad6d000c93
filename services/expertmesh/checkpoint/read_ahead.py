"""Reading what is wanted next while what was read is in use. Knows order and memory, not what is read."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import TypeVar

import torch

from expertmesh.checkpoint.entry import Room

Wanted = TypeVar("Wanted")
Found = TypeVar("Found")


class Slot:
    """Buffers by name that are used again, each as large as the largest that was asked for; page-locked for a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: dict[str, torch.Tensor] = {}

    def room(self, name: str) -> Room:
        """Return room in the buffer of this name: whoever asks again overwrites it."""
        return lambda num_bytes: self._take(name, num_bytes)

    def _take(self, name: str, num_bytes: int) -> torch.Tensor:
        if name not in self._buffers or len(self._buffers[name]) < num_bytes:
            self._buffers.pop(name, None)
            is_cuda = self._device.type == "cuda"
            with torch.cuda.device(self._device) if is_cuda else nullcontext():  # the context of no other GPU
                self._buffers[name] = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=is_cuda)
        return self._buffers[name][:num_bytes]


def read_ahead(
    read: Callable[[Wanted, int], Found], wanted: Iterable[Wanted]
) -> Generator[tuple[Wanted, Found], None, None]:
    """Yield what is ``wanted`` and what ``read`` finds for it; a second thread reads the next one meanwhile.

    ``read`` is told 0 and 1 in turns: by the time it is told a number again, what it found before is out of use. What
    it raises is raised here. The thread ends with the generator: close it where not all may be taken.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
        before = None
        for turn, one in enumerate(wanted):
            reading = one, reader.submit(read, one, turn % 2)
            if before is not None:
                yield before[0], before[1].result()
            before = reading
        if before is not None:
            yield before[0], before[1].result()
