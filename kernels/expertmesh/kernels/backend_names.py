"""The kernel backends by name, and what a name says of the device. Knows words; needs no torch."""

AUTO = "auto"
CPU = "cpu"
NAMES = (AUTO, CPU, "cpu-a8", "triton", "triton-blas", "reference")
CPU_NAMES = (CPU, "cpu-a8")
TRITON_NAMES = ("triton", "triton-blas")


def narrow_device(device: str, backend: str) -> str:
    """Return the word for a device; in place of auto that of a CPU where the backend runs nowhere else."""
    return CPU if device == AUTO and backend in CPU_NAMES else device
