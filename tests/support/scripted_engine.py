"""An engine that answers by a script."""

from collections.abc import AsyncGenerator, Sequence

from expertmesh.engine.messages import TokenDelta
from expertmesh.engine.request import FinishReason, Request
from expertmesh.model.choice import Choice


class ScriptedEngine:
    """Answers every request with the same ids, which end for ``reason``; an error is raised behind them."""

    def __init__(self, ids: Sequence[int], reason: FinishReason | Exception) -> None:
        self._ids = ids
        self._reason = reason
        self.requests: list[Request] = []

    async def generate(self, request: Request) -> AsyncGenerator[TokenDelta, FinishReason | None]:
        """Yield the ids."""
        self.requests.append(request)
        reason = None if isinstance(self._reason, Exception) else self._reason
        for number, token_id in enumerate(self._ids, 1):
            yield TokenDelta(Choice(token_id, -0.5), reason if number == len(self._ids) else None)
        if isinstance(self._reason, Exception):
            raise self._reason
