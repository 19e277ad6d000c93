"""The kernel backends by name."""

import torch

from expertmesh.kernels.backend import Backend
from expertmesh.kernels.cpu import CpuBackend
from expertmesh.kernels.reference import ReferenceBackend

NAMES = ("auto", "cpu", "reference")


def create_backend(name: str, device: torch.device) -> Backend:
    """Make a backend; ``auto`` is the fastest for the device. ValueError when the two do not go together."""
    if name not in NAMES:
        raise ValueError(f"backend {name!r} is unknown; use one of {', '.join(NAMES)}")
    if name == "cpu" and device.type != "cpu":
        raise ValueError(f"backend cpu cannot run on {device}; use reference")
    if name == "reference" or device.type != "cpu":
        return ReferenceBackend(device)
    return CpuBackend()
