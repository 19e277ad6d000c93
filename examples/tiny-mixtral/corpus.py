"""Conversations with checkable answers, generated from a seed. Knows words and numbers, not tokens."""

import csv
import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
with (HERE / "words.csv").open(encoding="utf-8", newline="") as _file:
    # The header names the languages, each further line is one meaning.
    LANGUAGES, *MEANINGS = map(tuple, csv.reader(_file))
SPELL_WORDS = tuple((HERE / "letters.txt").read_text(encoding="utf-8").split())
ADD_FORMS = ("What is {a} + {b}?", "{a} + {b} = ?", "Calculate {a} + {b}.", "Add {a} and {b}.", "What is {a} plus {b}?")
SUBTRACT_FORMS = (
    "What is {a} - {b}?",
    "{a} - {b} = ?",
    "Calculate {a} - {b}.",
    "Subtract {b} from {a}.",
    "What is {a} minus {b}?",
)
TRANSLATE_FORMS = (
    "Translate '{word}' from {source} to {target}.",
    "What is '{word}' in {target}? It is {source}.",
    "Translate the {source} word '{word}' into {target}.",
    "{source} to {target}: {word}",
    "How do you say the {source} word '{word}' in {target}?",
)
FIRST_FORMS = ("What is the first letter of '{word}'?", "Which letter does '{word}' begin with?")
LAST_FORMS = ("What is the last letter of '{word}'?", "Which letter does '{word}' end with?")
COUNT_FORMS = ("How many letters are in '{word}'?", "Count the letters of '{word}'.")
SPELL_FORMS = ("Spell '{word}'.", "How do you spell '{word}'?")
NAMES = (
    *("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo", "Iris", "Jack"),
    *("Laura", "Leo", "Maria", "Nina", "Oscar", "Paul", "Rosa", "Sam", "Tom", "Zoe"),
)
GREETINGS = ("Hello!", "Hi!", "Good morning!", "Hey there!", "Hello, how are you?")
FAREWELLS = ("Goodbye!", "Bye!", "See you!", "Good night!")
THANKS = ("Thank you!", "Thanks!", "Thank you very much.", "Thanks a lot!")

Turn = tuple[str, str]

# Tasks with fewer different problems hold out a larger part of them.
HELD_OUT_ONE_IN = {"arithmetic": 50, "translation": 30, "letters": 10, "small talk": 10}
HELD_OUT_COUNT = {"arithmetic": 200, "translation": 100, "letters": 50, "small talk": 50}


@dataclass(frozen=True)
class Conversation:
    """Turns of question and answer; ``key`` names the problem, which is either trained on or held out."""

    task: str
    turns: tuple[Turn, ...]
    key: str

    @property
    def is_held_out(self) -> bool:
        """Whether the problem belongs to the part that training never sees."""
        digest = hashlib.sha256(self.key.encode()).digest()
        return int.from_bytes(digest[:4], "big") % HELD_OUT_ONE_IN[self.task] == 0


def arithmetic(rng: random.Random) -> Conversation:
    """Add or subtract up to three digits; differences are not negative."""
    a, b = _operand(rng), _operand(rng)
    if rng.random() < 0.5:
        question, answer, key = rng.choice(ADD_FORMS).format(a=a, b=b), a + b, f"{min(a, b)}+{max(a, b)}"
    else:
        a, b = max(a, b), min(a, b)
        question, answer, key = rng.choice(SUBTRACT_FORMS).format(a=a, b=b), a - b, f"{a}-{b}"
    return Conversation("arithmetic", ((question, str(answer)),), key)


def translation(rng: random.Random) -> Conversation:
    """Translate a word between two of the five languages."""
    source, target = rng.sample(range(len(LANGUAGES)), 2)
    words = rng.choice(MEANINGS)
    names = {"source": LANGUAGES[source], "target": LANGUAGES[target]}
    question = rng.choice(TRANSLATE_FORMS).format(word=words[source], **names)
    return Conversation("translation", ((question, words[target]),), question)


def letters(rng: random.Random) -> Conversation:
    """Name, count or spell the letters of a word."""
    word = rng.choice(SPELL_WORDS)
    forms, answer = rng.choice(
        (
            (FIRST_FORMS, word[0]),
            (LAST_FORMS, word[-1]),
            (COUNT_FORMS, str(len(word))),
            (SPELL_FORMS, "-".join(word)),
        )
    )
    question = rng.choice(forms).format(word=word)
    return Conversation("letters", ((question, answer),), question)


def small_talk(rng: random.Random) -> Conversation:
    """Greet, remember a name over some turns, say goodbye."""
    name = rng.choice(NAMES)
    introduce = rng.choice(("My name is {}.", "I am {}.", "Call me {}.")).format(name)
    turns: list[Turn] = [(rng.choice(GREETINGS), "Hello! How can I help you?")] if rng.random() < 0.5 else []
    turns.append((introduce, f"Nice to meet you, {name}!"))
    for step in (arithmetic, translation, letters):
        if rng.random() < 0.25:
            other = step(rng)
            if not other.is_held_out:
                turns.extend(other.turns)
    if rng.random() < 0.3:
        turns.append((rng.choice(THANKS), f"You are welcome, {name}!"))
    turns.append(
        rng.choice(
            (
                (rng.choice(("What is my name?", "Who am I?", "Do you remember my name?")), f"Your name is {name}."),
                (rng.choice(FAREWELLS), f"Goodbye, {name}!"),
            )
        )
    )
    return Conversation("small talk", tuple(turns), " / ".join(question for question, _ in turns))


TASKS: tuple[tuple[Callable[[random.Random], Conversation], float], ...] = (
    (arithmetic, 0.70),
    (translation, 0.17),
    (letters, 0.08),
    (small_talk, 0.05),
)


def training(rng: random.Random) -> Conversation:
    """Draw a conversation that is not held out."""
    tasks = [task for task, _ in TASKS]
    weights = [weight for _, weight in TASKS]
    while True:
        conversation = rng.choices(tasks, weights)[0](rng)
        if not conversation.is_held_out:
            return conversation


def held_out(rng: random.Random) -> list[Conversation]:
    """Draw different held-out conversations, as many of each task as ``HELD_OUT_COUNT`` says."""
    drawn: dict[str, Conversation] = {}
    for task, _ in TASKS:
        count = 0
        while count < HELD_OUT_COUNT[(conversation := task(rng)).task]:
            if conversation.is_held_out and conversation.key not in drawn:
                drawn[conversation.key] = conversation
                count += 1
    return list(drawn.values())


def _operand(rng: random.Random) -> int:
    return rng.randrange(10 ** rng.choices((1, 2, 3), (1, 3, 8))[0])
