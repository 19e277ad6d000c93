import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from expertmesh.rpc.socket_directory import PREFIX, socket_directory

HOLD = (
    "from expertmesh.rpc.socket_directory import socket_directory; import time\n"
    "with socket_directory() as directory:\n"
    "    (directory / 'socket').touch(); print(directory, flush=True); time.sleep(60)"
)


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch) -> Path:
    """Where directories are made, by this process and by those it starts."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def start_owner() -> tuple["subprocess.Popen[str]", Path]:
    """Start a process with a directory."""
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as output:
        return process, Path(output.readline().strip())


def test_a_directory_is_its_owners_alone_and_goes_with_its_use(temporary):
    with socket_directory() as directory:
        assert directory.parent == temporary
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert directory.stat().st_uid == os.getuid()
    assert list(temporary.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_is_in_use_is_not(temporary):
    (killed, left), (living, used) = start_owner(), start_owner()
    try:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert left.exists()
        with socket_directory() as directory:
            assert set(temporary.iterdir()) == {used, directory}
            with socket_directory() as another:
                assert set(temporary.iterdir()) == {used, directory, another}
        assert (used / "socket").exists()
    finally:
        living.kill()
        living.wait()


def test_what_others_keep_under_such_a_name_stays(temporary):
    (temporary / f"{PREFIX}models").mkdir()
    (temporary / f"{PREFIX}notes").touch()
    with socket_directory():
        pass
    assert {path.name for path in temporary.iterdir()} == {f"{PREFIX}models", f"{PREFIX}notes"}
