"""An expert server in a process of its own, and the memory that it takes."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class ExpertProcess(NamedTuple):
    """A server that is ready."""

    process: "subprocess.Popen[str]"
    address: str

    def reset_peak(self) -> None:
        """Forget the most memory that it has had; see proc_pid_clear_refs(5)."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def peak_bytes(self) -> int:
        """The most memory that it has had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


@contextmanager
def expert_process(model: Path, *flags: str, experts: str = "0-7") -> Iterator[ExpertProcess]:
    """Serve experts of a checkpoint; killed at the end."""
    command = [sys.executable, "-m", "expertmesh.cli.main", "expert", "--model", str(model), "--experts", experts]
    settings = ["--listen", "127.0.0.1:0", "--device", "cpu", "--threads", "1", "--log-level", "error", *flags]
    with subprocess.Popen([*command, *settings], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            assert ready.startswith("ready: "), ready
            yield ExpertProcess(process, ready.split()[-1])
        finally:
            process.kill()
