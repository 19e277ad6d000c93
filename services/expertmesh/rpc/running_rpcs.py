"""Rpcs that are being answered, and how they end when a server has no more time. Knows no method and no message."""

import asyncio
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio

from expertmesh.rpc.handlers import Behaviour, Context, Handler, HandlerInterceptor, surround

TOO_LATE = "this server is shutting down, and the time that it had for running rpcs is over"


class RunningRpcs(HandlerInterceptor):
    """Keeps the tasks of a server's rpcs, so that ``end`` can end them with a status.

    A server that is stopped cancels them without one: a client may see CANCELLED, which says that it did so itself.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_ending = False

    def end(self) -> None:
        """End every rpc that runs, and those to come, with UNAVAILABLE."""
        self._is_ending = True
        for task in self._tasks:
            task.cancel()

    def change(self, handler: Handler, method: str) -> Handler:  # noqa: D102
        return surround(handler, self._noted)

    def _noted(self, answer: Behaviour) -> Behaviour:
        async def answer_noted(request: Any, context: Context) -> Any:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                if self._is_ending:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, TOO_LATE)
                return await answer(request, context)
            except asyncio.CancelledError:
                if self._is_ending:  # otherwise it was the client
                    # It was ending by itself, or a message is on its way that its status would have to overtake.
                    with suppress(grpc.aio.UsageError, grpc.aio.InternalError):
                        await context.abort(grpc.StatusCode.UNAVAILABLE, TOO_LATE)
                raise
            finally:
                self._tasks.discard(task)

        return answer_noted
