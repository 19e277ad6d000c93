"""Processes whose output goes to a disk that is full."""

import signal
from pathlib import Path

import httpx
from http_serving import MODEL
from server_processes import ServerProcess, started
from waiting import SECONDS

QUESTION = {"prompt": "Hello", "max_tokens": 3}


def ask(server: ServerProcess) -> int:
    return httpx.post(f"{server.url}/v1/completions", json=QUESTION, timeout=2 * SECONDS).status_code


def test_up_and_its_servers_serve_on(tmp_path: Path):
    flags = ("--model", str(MODEL), "--listen", "127.0.0.1:0", "--expert-servers", "1", "--log-level", "debug")
    with open("/dev/full", "wb") as full, started(tmp_path, "up", *flags, listen="--http-listen", output=full) as up:
        up.wait_for("/ready", 200)
        assert ask(up) == 200
        assert up.terminate(signal.SIGINT) == 0


def test_a_gateway_serves_on(tmp_path: Path):
    flags = ("--model", str(MODEL), "--listen", "127.0.0.1:0", "--local-experts", "--log-level", "debug")
    with (
        open("/dev/full", "wb") as full,
        started(tmp_path, "gateway", *flags, listen="--http-listen", output=full) as gateway,
    ):
        gateway.wait_for("/ready", 200)
        assert ask(gateway) == 200
        assert gateway.terminate() == 0
