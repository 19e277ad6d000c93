"""Choosing the device of the kernels by a word of a command line. Knows words, not what runs there."""

import logging

import torch

from expertmesh.errors import ConfigError
from expertmesh.kernels import cuda_devices
from expertmesh.kernels.backend_names import AUTO

_log = logging.getLogger(__name__)


def choose_device(word: str) -> torch.device:
    """Return the device that ``word`` names: cpu, cuda (the first GPU), cuda:N, or auto: a GPU where there is one.

    ConfigError for a GPU that is not there, and for what is no device.
    """
    device = _find() if word == AUTO else _parse(word)
    if device.type != "cuda":
        return device
    if cuda_devices.find_device(device) is None:
        raise ConfigError(f"device {word!r} is not here: {describe_devices()}; one that is, auto or cpu would be right")
    return torch.device("cuda", device.index or 0)


def describe_devices() -> str:
    """Say which GPUs torch finds, or that it finds none."""
    found = cuda_devices.find_devices()
    if not found:
        return f"torch {torch.__version__} finds no GPU"
    return f"torch finds {', '.join(map(str, found))}"


def _find() -> torch.device:
    device = torch.device("cuda:0" if cuda_devices.find_devices() else "cpu")
    _log.info("device auto is %s: %s", device, describe_devices())
    return device


def _parse(word: str) -> torch.device:
    try:
        return torch.device(word)
    except RuntimeError:
        raise ConfigError(f"device {word!r} is unknown; auto, cpu, cuda or cuda:N would be right") from None
