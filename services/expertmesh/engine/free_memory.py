"""How much memory this process may still take. Knows Linux's files about it, not who asks."""

from pathlib import Path

ROOT = Path("/")


def free_memory_bytes(root: Path = ROOT) -> int:
    """Bytes that can be taken without pushing anything out: what the machine has left, or the container if less.

    ``root`` is where /proc and /sys are found.
    """
    return max(0, int(min(_free_in_machine(root), _free_in_container(root))))


def _free_in_machine(root: Path) -> int:
    for line in (root / "proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    raise OSError("/proc/meminfo has no line MemAvailable")


def _free_in_container(root: Path) -> float:
    """Limit minus use, by the control groups of version 2, else of version 1; infinite where neither sets a limit."""
    for limit, used in (
        ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current"),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            return int((root / limit).read_text()) - int((root / used).read_text())
        except (OSError, ValueError):  # not this version, or the word "max"
            continue
    return float("inf")
