"""Where launches go. Knows devices, not kernels."""

from contextlib import AbstractContextManager, nullcontext

import torch


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Make launches go to ``device``: Triton launches on the current one, whatever device its arguments are on."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
