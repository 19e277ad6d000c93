"""The command llm, with a model of extra-openai-models.yaml and no plugin."""

import json
import os
import subprocess
import sys

import pytest
from asked import MAX_TOKENS, Subtract
from demo_model import ANSWER, QUESTION

pytest.importorskip("llm")
pytestmark = pytest.mark.clients

FUNCTIONS = '''
def now() -> str:
    """Tells the time."""
    return "noon"
'''


@pytest.fixture
def llm(gateway, tmp_path):
    models = [
        {
            "model_id": "tiny",
            "model_name": gateway.model,
            "api_key_name": "gateway",
            "api_base": gateway.v1,
            "supports_tools": True,
            "supports_schema": True,
        }
    ]
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(models))  # JSON is YAML, too

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "llm", "-m", "tiny", "--key", gateway.key, *arguments, QUESTION]
        environment = {**os.environ, "LLM_USER_PATH": str(tmp_path)}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    return run


def test_chat_and_stream(llm):
    assert llm("--no-stream") == llm() == ANSWER


def test_functions_may_be_called(llm):
    """Whether the model calls is its own choice."""
    assert llm("--no-stream", "--functions", FUNCTIONS, "-o", "max_tokens", "100")


def test_structured_output(llm):
    for how in ((), ("--no-stream",)):
        schema = json.dumps(Subtract.model_json_schema())
        Subtract.model_validate_json(llm(*how, "--schema", schema, "-o", "max_tokens", str(MAX_TOKENS)))
