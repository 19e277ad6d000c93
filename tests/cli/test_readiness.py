import asyncio
import os
import subprocess
import sys

import pytest

from expertmesh.cli.readiness import READY_FD, claim_ready_pipe, read_ready

CLAIM = "from expertmesh.cli.readiness import claim_ready_pipe; tell = claim_ready_pipe()"
# Starts a process that outlives it and would inherit all that can be.
START_ANOTHER = "import subprocess; subprocess.Popen(['sleep', '15'], close_fds=False, stdout=subprocess.DEVNULL)"


def run_child(code: str) -> tuple[str | None, subprocess.CompletedProcess[str]]:
    """Run code that has a pipe; returns what comes through it, and what else is left of the child."""
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as pipe:
        environment = {**os.environ, READY_FD: str(writing)}
        argv = [sys.executable, "-c", code]
        child = subprocess.run(argv, env=environment, pass_fds=(writing,), stdout=subprocess.PIPE, text=True)
        os.close(writing)

        async def read() -> str | None:
            async with asyncio.timeout(30):
                return await read_ready(pipe)

        return asyncio.run(read()), child


@pytest.mark.parametrize(
    ("told", "code"),
    [
        ("127.0.0.1:1 http://127.0.0.1:2", f"{CLAIM}; tell('127.0.0.1:1 http://127.0.0.1:2')"),
        (None, f"{CLAIM}; print('ready')"),
        (None, "raise SystemExit(3)"),
        (None, f"import os; os.write(int(os.environ['{READY_FD}']), b'half a li')"),
    ],
    ids=["ready", "only printed", "died", "died while telling"],
)
def test_a_child_is_ready_when_it_has_said_so_through_the_pipe(told, code):
    assert run_child(code)[0] == told


def test_what_a_child_starts_neither_holds_the_pipe_nor_knows_of_it():
    told, child = run_child(f"{CLAIM}; {START_ANOTHER}; import os; print('{READY_FD}' in os.environ)")
    assert (told, child.stdout) == (None, "False\n")


def test_without_a_supervisor_nothing_is_told(monkeypatch):
    monkeypatch.delenv(READY_FD, raising=False)
    claim_ready_pipe()("127.0.0.1:1")


def test_a_supervisor_that_is_gone_is_no_fault_of_the_child():
    reading, writing = os.pipe()
    os.close(reading)
    argv = [sys.executable, "-c", f"{CLAIM}; tell('127.0.0.1:1')"]
    child = subprocess.run(argv, env={**os.environ, READY_FD: str(writing)}, pass_fds=(writing,))
    os.close(writing)
    assert child.returncode == 0
