"""GPUs that are not there."""

from expertmesh.kernels import cuda_devices
from expertmesh.kernels.cuda_devices import CudaDevice

GB = 10**9


def pretend_gpus(monkeypatch, *names, memory_bytes=24 * GB, capability=(8, 9)):
    """Have torch find GPUs with these names, until the test ends."""
    devices = tuple(CudaDevice(index, name, memory_bytes, capability) for index, name in enumerate(names))
    monkeypatch.setattr(cuda_devices, "find_devices", lambda: devices)
