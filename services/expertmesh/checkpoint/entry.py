"""What every kind of weight file offers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from expertmesh.architectures.dialects import Part

if TYPE_CHECKING:
    import torch

# Gives room for so many bytes on the CPU: a uint8 tensor [num_bytes].
Room = Callable[[int], "torch.Tensor"]


@dataclass(frozen=True)
class TensorEntry:
    """A tensor of a file: its dtype as safetensors names it ("BF16"), its shape, its bytes."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    num_bytes: int


class TensorFile(Protocol):
    """A file of named tensors, whose data is read when it is asked for."""

    @property
    def entries(self) -> Mapping[str, TensorEntry]:
        """The tensors of the file by name."""
        ...

    def read(self, name: str, part: Part = (), room: Room | None = None) -> "torch.Tensor":
        """Read a tensor or a part of it, into ``room`` or mapped; CheckpointError when the file is damaged."""
        ...

    def sample(self, name: str, max_bytes: int) -> bytes:
        """Return up to ``max_bytes`` bytes from the middle of a tensor."""
        ...


def copy_into(room: Room, tensor: "torch.Tensor") -> "torch.Tensor":
    """Copy a tensor into ``room`` on the CPU."""
    return room(tensor.nbytes).view(tensor.dtype).view(tensor.shape).copy_(tensor)
