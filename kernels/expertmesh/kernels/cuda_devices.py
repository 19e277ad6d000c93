"""The GPUs that torch finds, of NVIDIA and of AMD, and slices of them. Knows what they are, not what runs on them."""

from dataclasses import dataclass

import torch

# How errors of the driver begin that Triton raises, as RuntimeError.
TRITON_ERROR = "Triton Error ["


@dataclass(frozen=True)
class CudaDevice:
    """A GPU or a slice of one: its number in this process, bytes of memory, compute capability."""

    index: int
    name: str
    memory_bytes: int
    capability: tuple[int, int]

    @property
    def kind(self) -> str:
        """What it has in common with others of its kind."""
        return f"{self.name}, {self.memory_bytes / 1e9:.0f} GB"

    def __str__(self) -> str:
        return f"cuda:{self.index} ({self.kind})"


def find_devices() -> tuple[CudaDevice, ...]:
    """Return what this process can compute on, in torch's order; CUDA_VISIBLE_DEVICES says what is hidden from it."""
    if not torch.cuda.is_available():
        return ()
    return tuple(map(_describe, range(torch.cuda.device_count())))


def find_device(device: torch.device) -> CudaDevice | None:
    """Return what torch finds where ``device`` points; without a number that is the first one."""
    return next((found for found in find_devices() if found.index == (device.index or 0)), None)


def free_bytes(device: torch.device) -> int:
    """Bytes that can be taken of a GPU now, whichever processes have taken the others."""
    free, _ = torch.cuda.mem_get_info(device)
    return free


def give_back_spare() -> None:
    """Give back what torch keeps for tensors to come, such as those of loading: others count it as taken."""
    torch.cuda.empty_cache()
    torch.accelerator.memory.empty_host_cache()


def lacks_memory(error: BaseException) -> bool:
    """Tell whether an error says that a GPU has too little memory: torch's, the driver's or Triton's."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "out of memory" in str(error)
    )


def is_lost(error: BaseException) -> bool:
    """Tell whether an error ends all use of a GPU by this process, as an illegal address in a kernel does.

    Every later operation fails then, whatever it is asked; only another process can go on.
    """
    is_of_driver = isinstance(error, torch.AcceleratorError) or str(error).startswith(TRITON_ERROR)
    return is_of_driver and not lacks_memory(error)


def _describe(index: int) -> CudaDevice:
    properties = torch.cuda.get_device_properties(index)
    return CudaDevice(index, properties.name, properties.total_memory, (properties.major, properties.minor))
