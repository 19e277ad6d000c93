"""The shipped model behind HTTP, in processes of their own: clients have an environment without the gateway."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Thread

import pytest
from demo_model import NAME, with_long_context

# LiteLLM would load a list of prices; agents would send traces.
os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "OPENAI_AGENTS_DISABLE_TRACING": "1"}


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
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        lines: list[str] = []
        try:
            yield Gateway(_read_url(process.stdout, lines))
        finally:
            drain = Thread(target=process.stdout.read)
            drain.start()
            process.send_signal(signal.SIGINT)
            process.wait(60)
            drain.join()


def _read_url(output: Iterator[str], lines: list[str]) -> str:
    """Read until the gateway is ready."""
    for line in output:
        lines.append(line)
        if found := re.match(r"\[gateway\] ready: .*(http://\S+)", line):
            return found.group(1)
    raise AssertionError("".join(lines))
