"""The memory of a process and its descendants over time. Knows /proc, not what the processes do."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MB = 1e6
EXPERTMESH = "expertmesh.cli.main"


@dataclass
class Course:
    """How much of a process was resident when: seconds by ``time.monotonic``, and bytes."""

    name: str
    seconds: list[float] = field(default_factory=list)
    resident_bytes: list[int] = field(default_factory=list)

    def mb_per_minute(self, since: float) -> float | None:
        """Fit a line to what was seen ``since`` then; None where that is less than two points."""
        points = [(s, b) for s, b in zip(self.seconds, self.resident_bytes, strict=True) if s >= since]
        if len(points) < 2:
            return None
        seconds, resident = np.array(points, dtype=np.float64).T
        return float(np.polynomial.Polynomial.fit(seconds, resident, 1).convert().coef[-1]) * 60 / MB


class MemoryLog:
    """The courses of a process and all that it has started, by process id."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.courses: dict[int, Course] = {}

    def note(self) -> None:
        """Look at every process that there is now."""
        now = time.monotonic()
        for pid in _family(self._pid):
            with suppress(OSError):  # it has just ended
                num_pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                course = self.courses.setdefault(pid, Course(_name(pid)))
                course.seconds.append(now)
                course.resident_bytes.append(num_pages * PAGE_BYTES)


def _family(pid: int) -> Iterator[int]:
    yield pid
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _family(int(child))


def _name(pid: int) -> str:
    """Say what a process is: the module, its command, and the experts it hosts."""
    words = Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")
    if "-m" not in words:
        return words[0].rpartition("/")[2]
    module, *arguments = words[words.index("-m") + 1 :]
    hosted = arguments[arguments.index("--experts") + 1 :][:1] if "expert" in arguments else []
    names = [] if module == EXPERTMESH else [module.removeprefix("expertmesh.")]
    return " ".join([*names, *arguments[:1], *hosted])
