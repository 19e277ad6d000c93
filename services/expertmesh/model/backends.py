"""Opening a kernel backend by the words of a command line."""

import torch

from expertmesh.errors import ConfigError
from expertmesh.kernels.backend import Backend
from expertmesh.kernels.backends import create_backend
from expertmesh.kernels.native.isa import AUTO


def open_backend(name: str, device: str, isa: str = AUTO) -> Backend:
    """Make the backend ``name`` on ``device``, its kernels of instruction set ``isa``.

    ConfigError when there is no such backend or instruction set, or they do not go together.
    """
    try:
        return create_backend(name, torch.device(device), isa)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"cannot run backend {name!r} on device {device!r}: {error}") from error
