"""Where the processes of ``up`` may compute: the CPU, or GPUs as a process with torch finds them. Starts no server."""

import ctypes
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from expertmesh.errors import ConfigError, ExpertmeshError
from expertmesh.kernels.backend_names import AUTO, CPU, narrow_device

CUDA = "cuda"
VISIBLE = "CUDA_VISIBLE_DEVICES"
MIG_SLICE = "MIG-"
NVIDIA_DRIVER = "libcuda.so.1"
AMD_DRIVER = Path("/dev/kfd")

Environment = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Place:
    """The device of a process, for --device; the environment that shows it to the process; what it is."""

    device: str
    kind: str
    environment: Environment = ()

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU, or a slice of one."""
        return self.device.startswith(CUDA)


def choose_places(device: str, backend: str) -> list[Place]:
    """Find where processes go that are started with these words: all GPUs for auto and cuda, one for cuda:N, or a CPU.

    ConfigError for a GPU that is not there.
    """
    word = narrow_device(device, backend)
    if word != AUTO and not word.startswith(CUDA):
        return [Place(word, word)]
    found = find_gpus(os.environ.get(VISIBLE, ""))
    if word == AUTO:
        return found or [Place(CPU, CPU)]
    chosen = [gpu for number, gpu in enumerate(found) if word in (CUDA, f"{CUDA}:{number}")]
    if not chosen:
        there = ", ".join(f"{CUDA}:{number} ({gpu.kind})" for number, gpu in enumerate(found))
        raise ConfigError(f"device {word!r} is not here: {there or 'no GPU is found'}; auto or cpu would be right")
    return chosen


def count_kinds(kinds: Iterable[str]) -> str:
    """Say how many there are of each kind: ``2 x NVIDIA L4, 24 GB``."""
    return "; ".join(f"{count} x {kind}" if count > 1 else kind for kind, count in Counter(kinds).items())


def find_gpus(visible: str) -> list[Place]:
    """Ask torch, in a process of its own; this one needs neither torch nor a context on a GPU.

    ``visible`` is CUDA_VISIBLE_DEVICES. CUDA shows a process one MIG slice at most, so of those named there each is
    asked for by itself, and given to processes by itself.
    """
    if not has_driver():
        return []
    slices = [one for one in visible.split(",") if one.startswith(MIG_SLICE)]
    views: list[Environment] = [((VISIBLE, one),) for one in slices] or [()]
    with ThreadPoolExecutor(len(views)) as threads:
        answers = zip(views, threads.map(ask, views), strict=True)
        return [Place(device, kind, view) for view, found in answers for device, kind in found]


def has_driver() -> bool:
    """Whether there may be a GPU, so that it is worth the seconds of importing torch."""
    if sys.platform != "linux" or AMD_DRIVER.exists():
        return True
    try:
        ctypes.CDLL(NVIDIA_DRIVER)
    except OSError:
        return False
    return True


def ask(view: Environment) -> list[tuple[str, str]]:
    """Return devices and their kinds as a process finds them that has ``view`` in its environment."""
    command = [sys.executable, "-m", __name__]
    asked = subprocess.run(command, env={**os.environ, **dict(view)}, stdout=subprocess.PIPE, text=True)
    if asked.returncode:
        raise ExpertmeshError("torch cannot say which GPUs there are; what it says is above. --device cpu needs none")
    return [(device, kind) for device, kind in json.loads(asked.stdout)]


def main() -> None:
    """Print the GPUs of this process, for ``ask``."""
    from expertmesh.kernels.cuda_devices import find_devices

    print(json.dumps([(f"{CUDA}:{found.index}", found.kind) for found in find_devices()]))


if __name__ == "__main__":
    main()
