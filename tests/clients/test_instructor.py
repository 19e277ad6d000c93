"""Instructor, in the modes by which it asks servers of OpenAI's API."""

import pytest
from asked import MAX_TOKENS, Subtract
from demo_model import QUESTION

instructor = pytest.importorskip("instructor")
openai = pytest.importorskip("openai")
pytestmark = pytest.mark.clients


@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA"])
def test_models_are_read(gateway, mode):
    with openai.OpenAI(base_url=gateway.v1, api_key=gateway.key, max_retries=0) as plain:
        client = instructor.from_openai(plain, mode=getattr(instructor.Mode, mode))
        asked = {
            "model": gateway.model,
            "messages": [{"role": "user", "content": QUESTION}],
            "response_model": Subtract,
            "max_tokens": MAX_TOKENS,
            "max_retries": 0,
        }
        assert isinstance(client.chat.completions.create(**asked), Subtract)
        *_, last = client.chat.completions.create_partial(**asked)
        Subtract.model_validate(last.model_dump())
