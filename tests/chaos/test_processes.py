import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest
from faults.processes import Command, ServerProcess, listening_ports
from waiting import wait_until

# As much of a server as matters here: it says that it serves, and stays.
SCRIPT = """
import os, sys, time
os.write(int(os.environ["EXPERTMESH_READY_FD"]), (sys.argv[1] + "\\n").encode())
time.sleep(600)
"""


@pytest.fixture
def command(tmp_path, monkeypatch) -> Command:
    (tmp_path / "served.py").write_text(SCRIPT)
    (tmp_path / "broken.py").write_text("raise SystemExit(7)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return Command("served", ("here:1",))


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_whatever_was_done_to_it_it_runs_again_as_it_should(command):
    async def run() -> None:
        async with ServerProcess(command) as server:
            assert await server.start() == "here:1"
            first = server.pid
            server.send(signal.SIGSTOP)
            wait_until(lambda: state(first) == "T")
            await server.heal()
            wait_until(lambda: state(first) != "T")
            assert server.pid == first

            assert await server.start(command.but(module="served")) == "here:1"
            await server.kill()
            await server.heal()
            assert server.pid != first
            last = server.pid
            server.send(signal.SIGSTOP)
        assert not Path(f"/proc/{last}").exists()

    asyncio.run(run())


def test_one_that_serves_something_else_is_replaced(command):
    async def run() -> None:
        async with ServerProcess(command) as server:
            assert await server.start(Command("served", ("there:2",))) == "there:2"
            other = server.pid
            await server.heal()
            assert server.pid != other

    asyncio.run(run())


def test_one_that_ends_before_it_serves_is_an_error(command):
    async def run() -> None:
        async with ServerProcess(Command("broken", ())) as server:
            with pytest.raises(RuntimeError, match="ended with exit code 7"):
                await server.start()

    asyncio.run(run())


def test_ports_that_a_process_listens_on():
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        port = listener.getsockname()[1]
        assert port in listening_ports(os.getpid())
    assert port not in listening_ports(os.getpid())
