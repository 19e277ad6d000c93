"""The kernel backends by name."""

from importlib.util import find_spec

import torch

from expertmesh.kernels import cuda_devices
from expertmesh.kernels.backend import Backend
from expertmesh.kernels.backend_names import AUTO, CPU_NAMES, NAMES, TRITON_NAMES
from expertmesh.kernels.cpu import CpuBackend
from expertmesh.kernels.reference import ReferenceBackend


def create_backend(name: str, device: torch.device, isa: str = AUTO) -> Backend:
    """Make a backend; ``auto`` is the fastest for the device. ValueError when the two do not go together.

    ``isa`` is the instruction set of the C kernels; ValueError where this machine has none such, or no use for one.
    """
    if name not in NAMES:
        raise ValueError(f"backend {name!r} is unknown; use one of {', '.join(NAMES)}")
    chosen = choose_backend(device) if name == AUTO else name
    if chosen in CPU_NAMES:
        if device.type != "cpu":
            raise ValueError(f"backend {chosen} cannot run on {device}; use {choose_backend(device)}")
        return CpuBackend(activation_bits=8 if chosen == "cpu-a8" else 16, isa=isa)
    if isa != AUTO:
        raise ValueError(f"backend {chosen} has no choice of instruction sets, so {isa!r} cannot be; use {AUTO}")
    return _open_triton(chosen, device) if chosen in TRITON_NAMES else ReferenceBackend(device)


def choose_backend(device: torch.device) -> str:
    """Name the fastest backend for a device: on a GPU triton, where it is installed and the GPU is not too old."""
    if device.type == "cpu":
        return "cpu"
    return "triton" if device.type == "cuda" and find_spec("triton") and _suits_triton(device) else "reference"


def _suits_triton(device: torch.device) -> bool:
    # Imported here, as importing triton takes a second that other backends need not wait for.
    from expertmesh.kernels.triton.backend import MIN_CAPABILITY

    found = cuda_devices.find_device(device)
    return found is not None and found.capability >= MIN_CAPABILITY


def _open_triton(name: str, device: torch.device) -> Backend:
    if device.type != "cuda":
        raise ValueError(f"backend {name} cannot run on {device}; use {choose_backend(device)}")
    if not find_spec("triton"):
        raise ValueError(f"backend {name} needs the package triton; use reference")
    from expertmesh.kernels.triton.backend import TritonBackend

    return TritonBackend.open(device, leaves_many_rows=name == "triton-blas")
