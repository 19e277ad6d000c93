from pathlib import Path

from expertmesh.engine.free_memory import free_memory_bytes

MEMINFO = "MemTotal:       24000 kB\nMemFree:        100 kB\nMemAvailable:   1000 kB\n"


def write(root: Path, **files: str) -> Path:
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_what_the_machine_has_left(tmp_path: Path):
    assert free_memory_bytes(write(tmp_path)) == 1000 * 1024
    assert free_memory_bytes() > 0


def test_a_container_may_have_less(tmp_path: Path):
    limits = {"sys/fs/cgroup/memory.max": "5000\n", "sys/fs/cgroup/memory.current": "1000\n"}
    assert free_memory_bytes(write(tmp_path, **limits)) == 4000


def test_a_container_of_the_first_version(tmp_path: Path):
    folder = "sys/fs/cgroup/memory/memory."
    limits = {folder + "limit_in_bytes": "5000\n", folder + "usage_in_bytes": "6000\n"}
    assert free_memory_bytes(write(tmp_path, **limits)) == 0


def test_a_container_without_a_limit(tmp_path: Path):
    limits = {"sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/memory.current": "1000\n"}
    assert free_memory_bytes(write(tmp_path, **limits)) == 1000 * 1024
