"""The table of limits in docs/api.md says what the code does."""

from pathlib import Path

import pytest

from expertmesh.gateway import generation_request as bounds
from expertmesh.gateway import response_size
from expertmesh.gateway.config import GatewayConfig
from expertmesh.gateway.http import body, body_route, connections, schema
from expertmesh.gateway.http.openai import fields, requests
from expertmesh.gateway.http.openai.responses.requests import MAX_METADATA
from expertmesh.text.tools import MAX_TOOLS

DOCUMENT = (Path(__file__).parents[1] / "docs" / "api.md").read_text()
SECTION = DOCUMENT.partition("\n## Limits\n")[2].partition("\n## ")[0]
CONFIG = GatewayConfig(Path("model"))
LIMITS = connections.ConnectionLimits()
ROWS = {
    "body, message over gRPC": f"`--max-body-mib` ({CONFIG.max_body_bytes // 2**20} MiB)",
    "answers to a request": f"`--max-response-mib` ({CONFIG.max_response_bytes // 2**20} MiB)",
    "lists and objects in a body": body_route.MAX_BRACKETS,
    "fields of a request": schema.MAX_FIELDS,
    "messages of a conversation": bounds.MAX_MESSAGES,
    "parts of a message": bounds.MAX_PARTS,
    "calls of a message": bounds.MAX_CALLS,
    "tools": MAX_TOOLS,
    "prompts of a text completion": requests.MAX_PROMPTS,
    "answers to one prompt": bounds.MAX_SEQUENCES,
    "`stop`": bounds.MAX_STOPS,
    "`stop_token_ids`": bounds.MAX_STOP_IDS,
    "`logit_bias`": bounds.MAX_BIASES,
    "`guided_choice`": fields.MAX_CHOICES,
    "a response's `metadata`": MAX_METADATA,
    "requests answered at once": f"`--max-connections` ({CONFIG.max_connections})",
    "headers": f"{connections.MAX_HEADER_BYTES} bytes, {LIMITS.header_seconds:g} s",
    "between two pieces of a body": f"{body.PAUSE_SECONDS:g} s, {body.MAX_SECONDS:g} s",
    "a reply that nobody reads on": f"{LIMITS.unread_seconds:g} s",
}


@pytest.mark.parametrize(("what", "most"), ROWS.items(), ids=str)
def test_every_limit_is_the_one_that_is_written(what: str, most: object):
    [row] = [
        line for line in DOCUMENT.splitlines() if line.startswith(f"| {what}") and "408 |" not in line.split(":")[0]
    ]
    assert row.split(" | ")[1].removesuffix(" |").startswith(str(most))


def test_what_answers_are_reckoned_with_is_written():
    sizes = (response_size.TEXT_BYTES, response_size.LOGPROB_BYTES, response_size.EXPERT_BYTES)
    assert "{} bytes a token of text, {} for each probability".format(*sizes) in DOCUMENT
    assert f"{sizes[2]} for each of `routed_experts`" in DOCUMENT
    assert f"`--max-connections` and {connections.NUM_SPARE} more are open" in DOCUMENT
    assert "Errors have 1000 characters" in DOCUMENT
