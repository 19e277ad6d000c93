"""Calls of functions in the replies of chat completions. Knows pieces of calls, not how they are found."""

from collections.abc import Iterable

from expertmesh.gateway.http.openai import replies
from expertmesh.text.call_parser import CallPiece, join_calls


def describe_calls(pieces: Iterable[CallPiece]) -> list[replies.ToolCall] | None:
    """Describe the calls of a whole answer, if there are any."""
    calls = [
        replies.ToolCall(id=call.id, function=replies.FunctionCall(name=call.name, arguments=call.arguments))
        for call in join_calls(pieces)
    ]
    return calls or None


def describe_pieces(pieces: Iterable[CallPiece]) -> list[replies.ToolCallDelta] | None:
    """Describe what is new in calls, if anything is."""
    return [_describe_piece(piece) for piece in pieces] or None


def _describe_piece(piece: CallPiece) -> replies.ToolCallDelta:
    function = replies.FunctionCallDelta(name=piece.name, arguments=piece.arguments)
    return replies.ToolCallDelta(
        index=piece.index, id=piece.id, type="function" if piece.id is not None else None, function=function
    )
