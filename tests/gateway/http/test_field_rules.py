import pytest

from expertmesh.gateway.http.field_rules import by_name, ignored, refused, without_idle

RULES = (
    ignored("would say who asks", "user"),
    refused("beam search", "beams", "width", unless=(False, 1)),
    refused("sound", "audio"),
)


@pytest.mark.parametrize(
    ("fields", "left"),
    [
        ({"user": "me", "audio": None, "unknown": None}, {}),
        ({"user": {"any": ["thing"]}}, {}),
        ({"beams": False, "width": 1.0}, {}),
        ({"beams": True}, {"beams": True}),
        ({"beams": 0}, {"beams": 0}),
        ({"audio": {}, "unknown": 0}, {"audio": {}, "unknown": 0}),
        ({"kept": {"null": None}}, {"kept": {"null": None}}),
    ],
)
def test_only_what_asks_for_nothing_is_left_out(fields, left):
    assert without_idle(fields, by_name(RULES)) == left


def test_rules_say_what_becomes_of_their_fields():
    assert [rule.effect for rule in RULES] == [
        "ignored: would say who asks",
        "refused unless false or 1: beam search",
        "refused: sound",
    ]
    assert [rule.schema.get("enum") for rule in RULES] == [None, [None, False, 1], [None]]
