"""``expertmesh up`` as a person runs it: real processes, real signals."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from expertmesh.client import AsyncClient, Client, Sampling
from expertmesh.kernels.native.library import load_default
from expertmesh.rpc.sockets import free_port

COMMAND = (sys.executable, "-m", "expertmesh.cli.main", "up")


class Up:
    """A running ``expertmesh up``: its lines so far, and the pids of its children by their command lines."""

    def __init__(self, *flags: str) -> None:
        self.endpoint = f"127.0.0.1:{free_port()}"
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [*COMMAND, "--listen", self.endpoint, "--http-listen", "127.0.0.1:0", "--device", "cpu", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            self.lines.extend(line.rstrip() for line in output)

    def wait_for(self, pattern: str, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while not any(re.search(pattern, line) for line in list(self.lines)):
            assert time.monotonic() < deadline, (pattern, self.lines)
            assert self._process.poll() is None, self.lines
            time.sleep(0.05)

    def children(self, pattern: str = "") -> list[int]:
        """Pids of the child processes whose command line matches."""
        pids = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        command_lines = {int(pid): Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid in pids}
        return [pid for pid, line in command_lines.items() if re.search(pattern, line)]

    def stop(self, number: int = signal.SIGINT) -> int:
        self._process.send_signal(number)
        code = self._process.wait(30)
        self._reader.join(30)
        return code


@contextmanager
def up(*flags: str) -> Iterator[Up]:
    mesh = Up(*flags)
    try:
        mesh.wait_for(r"\[gateway\] ready")
        yield mesh
    finally:
        if mesh._process.poll() is None:
            mesh.stop(signal.SIGTERM)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def answer(endpoint: str, on_token=lambda count: None) -> str:
    """Generate 150 tokens greedily."""
    text, count = "", 0
    async with AsyncClient(endpoint) as client:
        async for piece in client.generate("Hello", Sampling(max_tokens=150, ignore_eos=True)):
            text += piece.text
            count += 1
            on_token(count)
    return text


@pytest.fixture(scope="module")
def directory(make_mixtral) -> Path:
    return make_mixtral(vocab_size=32000, group_size=64).directory


def test_killed_replicas_change_no_text_and_nothing_is_left_behind(directory):
    def kill_at(pids: list[int], at: int):
        return lambda count: os.kill(pids[0], signal.SIGKILL) if count == at else None

    with up("--model", str(directory), "--expert-servers", "2", "--replicas", "0=2") as mesh:
        undisturbed = asyncio.run(answer(mesh.endpoint))
        assert len(mesh.children()) == 4

        one_of_two = mesh.children(r"--experts 0 ")
        assert asyncio.run(answer(mesh.endpoint, kill_at(one_of_two, 40))) == undisturbed
        mesh.wait_for(r"\[experts 0\] ended with exit code -9; starting it again")

        the_only_one = mesh.children(r"--experts 4-7 ")
        assert asyncio.run(answer(mesh.endpoint, kill_at(the_only_one, 40))) == undisturbed
        assert len(set(mesh.children(r"--experts 4-7 ")) - set(the_only_one)) == 1

        children = mesh.children()
        assert mesh.stop(signal.SIGINT) == 0
        assert not any(is_alive(pid) for pid in children)
        assert not any("Traceback" in line for line in mesh.lines), mesh.lines
        assert sum(line.startswith("[up] try: ") for line in mesh.lines) == 1, "however often a program gets ready"
        with socket.socket() as probe:
            host, _, port = mesh.endpoint.partition(":")
            assert probe.connect_ex((host, int(port))) != 0


def test_http_is_served_and_keys_are_shown_nowhere(directory, tmp_path):
    (tmp_path / "keys").write_text("open\n")
    keys = ("--api-key", "sesame", "--api-key-file", str(tmp_path / "keys"))
    with up("--model", str(directory), "--expert-servers", "1", *keys) as mesh:
        url = next(line.split()[-1] for line in mesh.lines if line.startswith("[gateway] ready"))
        assert httpx.get(f"{url}/ready").status_code == 200
        for key, status in (("sesame", 200), ("open", 200), ("wrong", 401)):
            reply = httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"})
            assert reply.status_code == status
        command_lines = [Path(f"/proc/{pid}/cmdline").read_text() for pid in mesh.children()]
        assert len(command_lines) == 2
        assert not any("sesame" in line for line in (*command_lines, *mesh.lines))


@pytest.mark.skipif(load_default() is None, reason="needs the C kernels")
def test_every_process_gets_the_instruction_set(directory):
    with (
        up("--model", str(directory), "--expert-servers", "1", "--isa", "avx2") as mesh,
        Client(mesh.endpoint) as client,
    ):
        assert len(mesh.children("--isa avx2 ")) == 2
        assert client.model_info().isa == "avx2"


def test_children_do_not_outlive_a_killed_supervisor(directory):
    with up("--model", str(directory), "--expert-servers", "1") as mesh:
        children = mesh.children()
        mesh.stop(signal.SIGKILL)
        deadline = time.monotonic() + 20
        while any(is_alive(pid) for pid in children) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(is_alive(pid) for pid in children)


def test_a_gpu_that_is_not_there_is_an_error_before_anything_starts(directory):
    command = [*COMMAND, "--model", str(directory), "--device", "cuda:99"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode, "device 'cuda:99' is not here" in result.stderr) == (2, True), result.stderr


def test_a_model_that_cannot_be_served_ends_up_with_an_error(tmp_path):
    result = subprocess.run([*COMMAND, "--model", str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert result.returncode == 3
    assert f"{tmp_path / 'config.json'} is missing" in result.stderr
