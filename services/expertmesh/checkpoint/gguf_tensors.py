"""The tensors of a GGUF model, as weight files offer them. Knows blocks of codes, not what a tensor means."""

from typing import TYPE_CHECKING

from expertmesh.architectures.dialects import Part
from expertmesh.checkpoint.entry import Room, TensorEntry, copy_into
from expertmesh.gguf.files import GgufModel, GgufTensor

if TYPE_CHECKING:
    import torch


class GgufTensors:
    """The tensors of all files of a model, mapped into memory and read from disk when they are used."""

    def __init__(self, model: GgufModel) -> None:
        self._tensors = model.tensors
        self.entries = {name: _describe(tensor) for name, tensor in model.tensors.items()}

    def read(self, name: str, part: Part = (), room: Room | None = None) -> "torch.Tensor":
        """Return a tensor or a part of it, copied into ``room`` or as it is mapped.

        Blocks of codes come as bytes [..., outputs, bytes of an output].
        """
        import torch

        tensor = self._tensors[name]
        values = torch.from_numpy(tensor.data[part])
        values = values.view(torch.bfloat16) if tensor.kind == "BF16" else values
        return copy_into(room, values) if room else values

    def sample(self, name: str, max_bytes: int) -> bytes:
        """Return up to ``max_bytes`` bytes from the middle of a tensor."""
        data = self._tensors[name].data.reshape(-1).view("uint8")
        start = max(0, data.size - max_bytes) // 2
        return data[start : start + max_bytes].tobytes()


def _describe(tensor: GgufTensor) -> TensorEntry:
    return TensorEntry(tensor.file, tensor.kind, tensor.shape, tensor.data.nbytes)
