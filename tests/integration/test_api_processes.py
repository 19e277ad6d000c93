"""A gateway whose clients are served by several processes on the same ports."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from demo_model import MODEL
from server_processes import ready_gateway
from waiting import wait_until

GATEWAY = (sys.executable, "-m", "expertmesh.cli.main", "gateway", "--local-experts", "--log-level", "error")
# The kernel deals connections out at random: that two processes share so many unseen is one in 2 ** 39.
NUM_CONNECTIONS = 40


@pytest.fixture(scope="module")
def gateway() -> Iterator[tuple["subprocess.Popen[str]", str]]:
    with ready_gateway(MODEL, "--api-processes", "3") as (process, _, url):
        yield process, url


def test_a_gateway_that_was_killed_leaves_nothing_to_the_next_one(tmp_path):
    command = [*GATEWAY, "--model", str(MODEL), "--listen", "127.0.0.1:0", "--http-listen", "", "--threads", "1"]
    seen: set[Path] = set()
    for _ in range(3):
        with subprocess.Popen(command, env={**os.environ, "TMPDIR": str(tmp_path)}) as process:
            deadline = time.monotonic() + 30
            while not (directories := set(tmp_path.glob("expertmesh-*/engine"))) - seen:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert len(directories) == 1
            seen |= directories
            process.kill()


def children(process: "subprocess.Popen[str]") -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def count_listeners(url: str) -> int:
    """Count the sockets that listen on the port of ``url``."""
    port = f":{int(url.rpartition(':')[2]):04X}"
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return sum(address.endswith(port) and state == "0A" for _, address, _, state, *_ in sockets)


def wait_until_listening(url: str, count: int) -> None:
    deadline = time.monotonic() + 30
    while count_listeners(url) != count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ask(url: str) -> str:
    body = {"prompt": "What is 291 - 150?", "max_tokens": 6, "temperature": 0}
    return httpx.post(f"{url}/v1/completions", json=body, timeout=30).raise_for_status().json()["choices"][0]["text"]


def test_all_processes_answer_alike_and_one_that_dies_is_started_again(gateway):
    process, url = gateway
    wait_until_listening(url, 3)
    answers = {ask(url) for _ in range(12)}
    assert len(answers) == 1
    engine, *others = children(process)
    assert len(others) == 2
    os.kill(others[0], signal.SIGKILL)
    wait_until_listening(url, 2)
    assert {ask(url) for _ in range(6)} == answers
    wait_until_listening(url, 3)
    assert {ask(url) for _ in range(6)} == answers
    assert children(process)[0] == engine


def test_every_process_tells_the_same_counts(gateway):
    _, url = gateway
    wait_until_listening(url, 3)
    ask(url)
    lines = {
        line
        for _ in range(8)
        for line in httpx.get(f"{url}/metrics").text.splitlines()
        if line.startswith("expertmesh_generation_tokens_total ")
    }
    assert len(lines) == 1
    assert lines.pop() != "expertmesh_generation_tokens_total 0.0"


def test_every_process_takes_changed_keys_and_counts_for_all(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("old\n")
    with ready_gateway(MODEL, "--api-processes", "2", "--api-key-file", str(keys)) as (process, _, url):
        wait_until_listening(url, 2)
        assert statuses(url, "old") == {200}
        keys.write_text("new\n")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: statuses(url, "new") == {200})
        before = count_refused(url)
        assert statuses(url, "old") == {401}
        wait_until(lambda: count_refused(url) == before + NUM_CONNECTIONS)


def statuses(url: str, key: str) -> set[int]:
    """What a key is answered over so many connections that every process has some of them."""
    headers = {"Authorization": f"Bearer {key}"}
    return {httpx.get(f"{url}/v1/models", headers=headers).status_code for _ in range(NUM_CONNECTIONS)}


def count_refused(url: str) -> int:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith("expertmesh_refused_callers_total{"))
