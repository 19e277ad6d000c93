"""The shipped model behind HTTP, in processes of their own: clients have an environment without the gateway."""

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from demo_model import NAME, with_long_context


@dataclass(frozen=True)
class Gateway:
    """A gateway that wants a key."""

    url: str
    model: str = NAME
    key: str = "sesame"

    @property
    def v1(self) -> str:
        """Where OpenAI's API begins."""
        return f"{self.url}/v1"


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    expertmesh = shutil.which("expertmesh")
    if expertmesh is None:
        pytest.skip("needs the command expertmesh on the PATH, as make test-clients has it")
    model = with_long_context(tmp_path_factory.mktemp("model") / NAME)
    command = [expertmesh, "up", "--model", model, "--device", "cpu", "--expert-servers", "1", "--api-key", Gateway.key]
    command += ["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]
    output = tmp_path_factory.mktemp("output") / "up"
    with output.open("w") as file, subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as process:
        try:
            yield Gateway(_wait_ready(process, output))
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def _wait_ready(process: "subprocess.Popen[bytes]", output: Path) -> str:
    """Return the URL of the gateway once it serves."""
    while not (found := re.search(r"\[gateway\] ready: .*(http://\S+)\n", output.read_text())):
        assert process.poll() is None, output.read_text()
        time.sleep(0.1)
    return found.group(1)
