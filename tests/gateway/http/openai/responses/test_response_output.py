from dataclasses import replace

from expertmesh.gateway.http.openai.replies import TokenLogprob
from expertmesh.gateway.http.openai.responses.events import Event
from expertmesh.gateway.http.openai.responses.output import Output, make_id
from expertmesh.gateway.text_stream import TextDelta
from expertmesh.model.choice import Choice
from expertmesh.text.call_parser import CallPiece

OPEN_MESSAGE = ["output_item.added", "content_part.added"]
CLOSE_MESSAGE = ["output_text.done", "content_part.done", "output_item.done"]
CLOSE_CALL = ["function_call_arguments.done", "output_item.done"]


def delta(text: str = "", *calls: CallPiece) -> TextDelta:
    return TextDelta(
        0, text, Choice(7, -0.5), None, None, num_prompt_tokens=3, num_cached_tokens=0, num_output_tokens=1, calls=calls
    )


def push(output: Output, *deltas: TextDelta) -> list[Event]:
    return [event for one in deltas for event in output.push(one)]


def kinds(events: list[Event]) -> list[str]:
    return [event.type.removeprefix("response.") for event in events]


def test_ids_say_what_they_are_of_and_are_new():
    assert make_id("msg").startswith("msg_")
    assert make_id("msg") != make_id("msg")


def test_a_text_is_one_message():
    output = Output()
    events = [*push(output, delta("14"), delta("1")), *output.close("completed")]
    assert kinds(events) == [*OPEN_MESSAGE, "output_text.delta", "output_text.delta", *CLOSE_MESSAGE]
    (item,) = output.items()
    assert (item.status, item.content[0].text) == ("completed", "141")
    assert events[-1].item == item
    assert {event.item_id for event in events[1:-1]} == {item.id}
    assert {event.output_index for event in events} == {0}


def test_each_call_is_an_item_behind_the_text():
    output = Output()
    events = push(
        output,
        delta("Wait."),
        delta("", CallPiece(0, id="a", name="now")),
        delta("", CallPiece(0, arguments="{"), CallPiece(0, arguments="}")),
        delta("", CallPiece(1, arguments="{}", id="b", name="later")),
    )
    events += output.close("completed")
    assert kinds(events) == [
        *(*OPEN_MESSAGE, "output_text.delta", *CLOSE_MESSAGE),
        *("output_item.added", *["function_call_arguments.delta"] * 2, *CLOSE_CALL),
        *("output_item.added", "function_call_arguments.delta", *CLOSE_CALL),
    ]
    _, *calls = output.items()
    assert [(call.call_id, call.name, call.arguments) for call in calls] == [("a", "now", "{}"), ("b", "later", "{}")]
    assert [event.output_index for event in events] == [0] * 6 + [1] * 5 + [2] * 4


def test_only_the_last_item_is_incomplete():
    output = Output()
    push(output, delta("Wait."), delta("", CallPiece(0, arguments='{"a', id="a", name="now")))
    so_far = output.items()
    assert [item.status for item in so_far] == ["completed", "incomplete"]
    list(output.close("incomplete"))
    assert output.items() == so_far


def test_an_answer_of_nothing_is_a_message_without_text():
    output = Output()
    assert output.items() == []
    assert kinds([*push(output, delta()), *output.close("completed")]) == [*OPEN_MESSAGE, *CLOSE_MESSAGE]
    (item,) = output.items()
    assert (item.content[0].text, item.status) == ("", "completed")


def test_tokens_without_text_are_told_of_with_the_next_text():
    output = Output(lambda one: TokenLogprob(token="abcd"[one.token_id], logprob=-0.5, bytes=[], top_logprobs=[]))
    deltas = [replace(delta(text), token=Choice(number)) for number, text in enumerate(("1", "", "2", ""))]
    events = push(output, *deltas)
    told = ["".join(one.token for one in event.logprobs) for event in events if event.type.endswith("text.delta")]
    assert told == ["a", "bc"]
    list(output.close("completed"))
    assert "".join(one.token for one in output.items()[0].content[0].logprobs) == "abc"
