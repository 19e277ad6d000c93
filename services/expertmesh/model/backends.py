"""Opening a kernel backend by the words of a command line."""

import torch

from expertmesh.errors import ConfigError
from expertmesh.kernels.backend import Backend
from expertmesh.kernels.backends import create_backend


def open_backend(name: str, device: str) -> Backend:
    """Make the backend ``name`` on ``device``; ConfigError when there is no such one or the two do not go together."""
    try:
        return create_backend(name, torch.device(device))
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"cannot run backend {name!r} on device {device!r}: {error}") from error
