"""Texts that are tokens where a template writes them, and text of messages that only looks like that.

Knows names of tokens, no template. A name in a message is marked before a template gets the message, so that it is told
apart in what comes out; so is what may be half a name, at the ends of a message, where other text may hold the rest.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from itertools import pairwise

from expertmesh.text.pieces import NamedToken

# Half a character of UTF-16: neither a message nor a template can hold it.
MARK = "\udfff"


class TokenNames:
    """The names of tokens."""

    def __init__(self, tokens: Iterable[NamedToken]) -> None:
        self._tokens = {token.text: token for token in tokens}
        self._begun = re.compile(f"(?={_any_of(self._tokens)}).", re.DOTALL)
        self._written = re.compile(f"({_as_written(self._tokens.values())})(?!{MARK})")
        self._beginnings = {name[:end] for name in self._tokens for end in range(1, len(name))}
        self._endings = {name[start:] for name in self._tokens for start in range(1, len(name))}

    def mark(self, text: str) -> str:
        """Mark the names in a text of a message, and what may be half a name at its ends."""
        if not self._tokens:
            return text
        places = {match.start() for match in self._begun.finditer(text)} | self._half_names(text)
        cuts = [0, *(place + 1 for place in sorted(places)), len(text)]
        return MARK.join(text[start:end] for start, end in pairwise(cuts))

    def split(self, text: str) -> Iterator[str | int]:
        """Cut what a template has written into text, without marks, and ids of tokens."""
        if not self._tokens:
            yield text
            return
        for index, part in enumerate(self._written.split(text)):
            if index % 2:
                yield self._tokens[part if part in self._tokens else part.strip()].token_id
            elif part:
                yield part.replace(MARK, "")

    def _half_names(self, text: str) -> set[int]:
        """Return the places after which a mark spoils a name that begins, or ends, outside the text."""
        first, last = len(text) - len(text.lstrip()), len(text.rstrip())
        longest = max(map(len, self._tokens))
        ends_one = any(text[first:end] in self._endings for end in range(first + 1, min(first + longest, last + 1)))
        begun = {start for start in range(max(first, last - longest), last) if text[start:last] in self._beginnings}
        return begun | ({first} if ends_one else set())


def _as_written(tokens: Collection[NamedToken]) -> str:
    """Match the longest name, with the blanks that its token takes along."""
    taking = {token.text: token for token in tokens if token.takes_left or token.takes_right}
    patterns = [_with_blanks(taking[name]) for name in sorted(taking, key=len, reverse=True)]
    return "|".join([*patterns, _any_of(token.text for token in tokens)])


def _with_blanks(token: NamedToken) -> str:
    # Blanks are tried from the first of them only: a long row of them is read once.
    before = r"(?:(?<!\s)\s+)?" if token.takes_left else ""
    return before + re.escape(token.text) + (r"\s*" if token.takes_right else "")


def _any_of(names: Iterable[str]) -> str:
    """Match the longest of several names. What they begin with is shared: a long text is read in no time."""
    tails: dict[str, list[str]] = {}
    for name in names:
        tails.setdefault(name[:1], []).append(name[1:])
    may_end = tails.pop("", None) is not None
    branches = "|".join(re.escape(head) + _any_of(rest) for head, rest in tails.items())
    return f"(?:{branches}){'?' if may_end else ''}" if branches else ""
