"""Texts that are tokens where a template writes them, and text of messages that only looks like that.

Knows names of tokens, no template. A name in a message is marked before a template gets the message, so that it is told
apart in what comes out; so is what may be half a name, at the ends of a message, where other text may hold the rest.
"""

import re
from collections.abc import Iterable, Iterator

from expertmesh.text.pieces import NamedToken

# Half a character of UTF-16: neither a message nor a template can hold it.
MARK = "\udfff"


class TokenNames:
    """The names of tokens."""

    def __init__(self, tokens: Iterable[NamedToken]) -> None:
        # Of two names that begin alike the longer one is meant.
        self._tokens = {token.text: token for token in sorted(tokens, key=lambda token: -len(token.text))}
        self._begun = re.compile(f"(?={'|'.join(map(re.escape, self._tokens))}).", re.DOTALL)
        self._written = re.compile(f"({'|'.join(map(_pattern, self._tokens.values()))})(?!{MARK})")
        self._beginnings = {name[:end] for name in self._tokens for end in range(1, len(name))}
        self._endings = {name[start:] for name in self._tokens for start in range(1, len(name))}

    def mark(self, text: str) -> str:
        """Mark the names in a text of a message, and what may be half a name at its ends."""
        if not self._tokens:
            return text
        places = {match.start() for match in self._begun.finditer(text)} | self._half_names(text)
        for place in sorted(places, reverse=True):
            text = f"{text[: place + 1]}{MARK}{text[place + 1 :]}"
        return text

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


def _pattern(token: NamedToken) -> str:
    return (r"\s*" if token.takes_left else "") + re.escape(token.text) + (r"\s*" if token.takes_right else "")
