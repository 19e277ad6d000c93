import random

import pytest

from expertmesh.errors import ConfigError
from expertmesh.loadgen.lengths import Uniform
from expertmesh.loadgen.prompts import GivenPrompts, RandomPrompts, TokenIds, Words, read_prompts

IDS = TokenIds(range(1000, 32000))


def make(prompts, count=20):
    rng = random.Random(7)
    return [prompts.make(rng, index) for index in range(count)]


def test_prompts_are_ids_of_the_range_or_words():
    assert all(1000 <= token < 1002 for prompt in make(RandomPrompts(TokenIds(range(1000, 1002)), Uniform(3, 9)))
               for token in prompt)  # fmt: skip
    texts = make(RandomPrompts(Words(("red", "blue")), Uniform(3, 9)))
    assert all(set(text.split(" ")) <= {"red", "blue"} for text in texts)
    assert {len(text.split(" ")) for text in texts} <= set(range(3, 10))


def test_prompts_share_their_prefix_and_nothing_else():
    prompts = make(RandomPrompts(IDS, Uniform(10, 10), 0.6))
    assert {len(prompt) for prompt in prompts} == {10}
    assert len({tuple(prompt[:6]) for prompt in prompts}) == 1
    assert len({prompt[6] for prompt in prompts}) > 1


def test_the_shared_part_grows_with_the_prompt():
    short, long = sorted(make(RandomPrompts(IDS, Uniform(10, 20), 0.5)), key=len)[::19]
    assert long[: len(short) // 2] == short[: len(short) // 2]


def test_all_of_a_prompt_may_be_shared():
    assert len({tuple(prompt) for prompt in make(RandomPrompts(IDS, Uniform(8, 8), 1.0))}) == 1


def test_given_prompts_are_taken_in_turn_and_for_a_warmup_from_the_end():
    given = GivenPrompts(("a", "b", "c"))
    assert make(given, 5) == ["a", "b", "c", "a", "b"]
    assert [given.make(random.Random(), index) for index in (-2, -1)] == ["b", "c"]


def test_a_file_has_a_prompt_per_line(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("What is it?\n\n  Why \u00e9?\n", encoding="utf-8")
    assert read_prompts(file) == GivenPrompts(("What is it?", "  Why \u00e9?"))
    lines = tmp_path / "prompts.jsonl"
    lines.write_text('{"prompt": "two\\nlines", "id": 3}\n{"prompt": "b"}')
    assert read_prompts(lines) == GivenPrompts(("two\nlines", "b"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b" \n\n", "a.txt has no prompts; one per line"),
        ("a.txt", b"\xff", "a.txt cannot be read"),
        ("a.jsonl", b'{"prompt": "x"}\n{"text": "x"}', 'a.jsonl:2: \'{"text": "x"}\' has no prompt'),
        ("a.jsonl", b"plain", "a.jsonl:1: 'plain' has no prompt"),
        ("a.jsonl", b'{"prompt": 3}', "a.jsonl:1"),
    ],
)
def test_a_file_without_prompts_is_refused(tmp_path, name, content, message):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_prompts(file)
