"""A tensor on the host and the same on a device. Knows copies, not what is in them."""

import torch


class Mirror:
    """Zeros of a shape, ``host`` and ``device``; on a CPU both are one tensor, so nothing is copied between them."""

    def __init__(self, *shape: int, dtype: torch.dtype, device: torch.device) -> None:
        self._is_apart = device.type != "cpu"
        self.host = torch.zeros(*shape, dtype=dtype, pin_memory=self._is_apart)
        self.device = torch.zeros(*shape, dtype=dtype, device=device) if self._is_apart else self.host

    def to_device(self) -> None:
        """Copy what is on the host."""
        if self._is_apart:
            self.device.copy_(self.host, non_blocking=True)

    def to_host(self) -> None:
        """Copy what is on the device."""
        if self._is_apart:
            self.host.copy_(self.device, non_blocking=True)
