from expertmesh.client import (
    Answer,
    Message,
    Piece,
    TokenLogprob,
    TokenLogprobs,
    ToolCall,
    ToolCallPiece,
    put_together,
)


def logprobs(token_id: int) -> tuple[TokenLogprobs, ...]:
    return (TokenLogprobs(TokenLogprob(token_id, -1.0, b"x"), ()),)


def test_the_pieces_of_several_answers_are_sorted_out():
    pieces = [
        Piece("a", (1,), None, 0, 0, index=0, prompt_logprobs=logprobs(9), logprobs=logprobs(1)),
        Piece("x", (7,), None, 0, 0, index=1, routed_experts=(((0, 1),),)),
        Piece("b", (2, 3), "stop", 5, 3, index=0, num_cached_tokens=4, logprobs=logprobs(2)),
        Piece("", (8,), "stop_sequence", 5, 2, index=1, stop="END", routed_experts=(((2, 3),),)),
    ]
    assert put_together(pieces) == [
        Answer(
            text="ab",
            token_ids=(1, 2, 3),
            finish_reason="stop",
            num_prompt_tokens=5,
            num_output_tokens=3,
            index=0,
            num_cached_tokens=4,
            logprobs=logprobs(1) + logprobs(2),
            prompt_logprobs=logprobs(9),
        ),
        Answer("x", (7, 8), "stop_sequence", 5, 2, index=1, stop="END", routed_experts=(((0, 1),), ((2, 3),))),
    ]


def test_nothing_is_no_answer():
    assert put_together([]) == []


def test_calls_are_put_together_piece_by_piece():
    pieces = [
        Piece("Wait.", (1,), None, 0, 0),
        Piece("", (2,), None, 0, 0, tool_call_pieces=(ToolCallPiece(0, "a", "now", "{"),)),
        Piece(
            "", (3,), None, 0, 0, tool_call_pieces=(ToolCallPiece(0, None, None, "}"), ToolCallPiece(1, "b", "f", ""))
        ),
        Piece("", (4,), "tool_calls", 5, 4, tool_call_pieces=(ToolCallPiece(1, None, None, '{"x": 1}'),)),
    ]
    (answer,) = put_together(pieces)
    calls = (ToolCall("a", "now", "{}"), ToolCall("b", "f", '{"x": 1}'))
    assert answer.tool_calls == calls
    assert answer.message == Message("assistant", "Wait.", tool_calls=calls)
    assert calls[0].result("noon") == Message("tool", "noon", tool_call_id="a")
