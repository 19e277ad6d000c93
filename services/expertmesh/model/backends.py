"""Opening a kernel backend by the words of a command line, and telling what was opened."""

import logging

from expertmesh.errors import ConfigError
from expertmesh.kernels.backend import Backend
from expertmesh.kernels.backend_names import AUTO, CPU_NAMES, narrow_device
from expertmesh.kernels.backends import create_backend
from expertmesh.model.devices import choose_device

_log = logging.getLogger(__name__)

ROWS_MATTER = "deterministic: no, a row's last bits depend on how many rows are computed beside it"
HOW_TO_MEND = "install a C compiler or the libraries compiled ahead (python -m expertmesh.kernels.native.prebuilt)"


def open_backend(name: str, device: str, isa: str = AUTO) -> Backend:
    """Make the backend ``name`` on ``device``, its kernels of instruction set ``isa``.

    ConfigError when there is no such backend, device or instruction set, or they do not go together.
    """
    chosen = choose_device(narrow_device(device, name))
    try:
        return create_backend(name, chosen, isa)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"cannot run backend {name!r} on device '{chosen}': {error}") from error


def log_backend(backend: Backend) -> None:
    """Log what computes, in a line; it is a warning where the C kernels are missing, which would be deterministic."""
    kernels = f"backend {backend.name} on {backend.device}" + (backend.isa and f", instruction set {backend.isa}")
    if backend.is_deterministic:
        _log.info("%s, deterministic: yes", kernels)
    elif backend.name in CPU_NAMES:
        _log.warning("%s, %s: torch stands in for the C kernels; %s", kernels, ROWS_MATTER, HOW_TO_MEND)
    else:
        _log.info("%s, %s", kernels, ROWS_MATTER)
