"""What is said to who asks for a path that is not there. Knows paths of others' APIs, not what is served."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import NoReturn

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

# Endpoints of OpenAI's API and its relatives, by what they are for.
ELSEWHERE = {
    "embeddings of texts": ("/v1/embeddings", "/embeddings", "/embedding", "/embed", "/api/embed", "/api/embeddings"),
    "scores of texts": ("/v1/rerank", "/rerank", "/v1/score", "/score", "/classify", "/pooling", "/v1/moderations"),
    "sound": ("/v1/audio/speech", "/v1/audio/transcriptions", "/v1/audio/translations", "/v1/realtime"),
    "images": ("/v1/images/generations", "/v1/images/edits", "/v1/images/variations"),
    "kept files and answers": ("/v1/files", "/v1/batches", "/v1/conversations", "/v1/assistants", "/v1/threads"),
    "training": ("/v1/fine_tuning/jobs", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"),
}
# Below it, where OpenAI's API keeps answers.
RESPONSES = "/v1/responses/"
_USES = {path: use for use, paths in ELSEWHERE.items() for path in paths}


def refuse_unknown(paths: Iterable[str]) -> ASGIApp:
    """Make what answers requests for other paths than ``paths``, with the nearest of these."""
    known = sorted(set(paths))

    async def refuse(scope: Scope, receive: Receive, send: Send) -> NoReturn:
        raise HTTPException(404, describe_unknown(scope["path"], known))

    return refuse


def describe_unknown(path: str, known: Iterable[str]) -> str:
    """Say that there is no ``path``, and which of the ``known`` ones may be meant."""
    if path in _USES:
        return f"{path} is not served: there are no {_USES[path]} here, only the text that one model generates"
    if path.startswith(RESPONSES):
        return f"there is no {path[:200]!r} here: no response is kept once it has been sent"
    near = get_close_matches(path, known, n=1)
    return f"there is no {path[:200]!r} here{f'; {near[0]} is nearest' if near else ''}; /openapi.json lists all paths"
