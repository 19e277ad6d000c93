"""``expertmesh top`` against a real gateway, through a pipe and through a terminal of its own."""

import asyncio
import os
import pty
import subprocess
import sys

import pytest
from integration_mesh import Mesh, run_mesh

COMMAND = (sys.executable, "-m", "expertmesh.cli.main", "top", "--interval", "0.2")


def beside_a_mesh(make_mixtral, use) -> str:
    """Run ``use(address)`` in a thread while a mesh serves, and give what it returns."""

    async def run() -> str:
        async with run_mesh(make_mixtral().directory, hosts=[(0, 1, 2, 3), (4, 5, 6, 7)]) as mesh:
            await mesh.ids([1, 5, 6], max_tokens=4, ignore_eos=True)
            return await asyncio.to_thread(use, address_of(mesh))

    return asyncio.run(run())


def address_of(mesh: Mesh) -> str:
    return mesh.gateway.server.address


def test_one_picture_goes_into_a_pipe(make_mixtral):
    def print_once(address: str) -> str:
        ended = subprocess.run(
            [*COMMAND, "--endpoint", address, "--once"], capture_output=True, text=True, timeout=60, check=True
        )
        assert "\x1b" not in ended.stdout
        return ended.stdout

    lines = beside_a_mesh(make_mixtral, print_once).splitlines()
    assert "running 0 · waiting 0" in lines[1]
    assert [line.split()[0] for line in lines[4:12]] == list("01234567")
    assert sum("127.0.0.1" in line for line in lines[12:]) == 2


def test_pictures_follow_each_other_through_a_pipe_until_its_reader_has_seen_enough(make_mixtral):
    def watch(address: str) -> str:
        with subprocess.Popen([*COMMAND, "--endpoint", address], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as top:
            assert top.stdout is not None and top.stderr is not None
            seen = b""
            while seen.count(b"expert ") < 3:
                seen += top.stdout.readline()
            top.stdout.close()
            assert (top.wait(30), top.stderr.read()) == (1, b"")
        return seen.decode()

    seen = beside_a_mesh(make_mixtral, watch)
    assert "\x1b" not in seen
    assert seen.count(" at 127.0.0.1:") == 3


def test_q_ends_a_live_picture(make_mixtral):
    pytest.importorskip("termios")

    def watch_and_quit(address: str) -> str:
        ours, theirs = pty.openpty()
        with subprocess.Popen([*COMMAND, "--endpoint", address], stdin=theirs, stdout=theirs, stderr=theirs) as running:
            os.close(theirs)
            seen = b""
            while b"replicas" not in seen:
                seen += os.read(ours, 65536)
            os.write(ours, b"q")
            while running.poll() is None:
                try:
                    seen += os.read(ours, 65536)
                except OSError:  # the other end is closed
                    break
            assert running.wait(30) == 0
        os.close(ours)
        return seen.decode(errors="replace")

    assert "q ends" in beside_a_mesh(make_mixtral, watch_and_quit)


def test_a_gateway_that_is_not_there_is_an_error_and_no_picture():
    ended = subprocess.run(
        [*COMMAND, "--endpoint", "127.0.0.1:1", "--once"], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout) == (4, "")
    assert "127.0.0.1:1" in ended.stderr
