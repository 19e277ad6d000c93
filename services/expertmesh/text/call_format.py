"""How models write calls of functions in their answers. Knows marks around JSON, not functions.

Two forms are known: Hermes's, which Qwen and others have too, with each call between marks; and Mistral's, a list of
all calls behind a mark. In both a call is ``{"name": ..., "arguments": {...}}``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from expertmesh.text.tokenizer import Tokenizer

# Half a character of UTF-16, which neither a text of a model nor a stop string can hold.
_SIGN = "\udffe"


@dataclass(frozen=True)
class Mark:
    """A text that a model writes, as ordinary tokens or as a control token without text, ``token_id``."""

    text: str
    token_id: int | None = None

    @property
    def shown(self) -> str:
        """How it is told from other text in an answer."""
        return self.text if self.token_id is None else _SIGN


@dataclass(frozen=True)
class CallFormat:
    """``opening`` stands before a call and ``closing`` behind it; without ``closing`` a list of calls follows."""

    opening: Mark
    closing: Mark | None = None

    @property
    def shown(self) -> Mapping[int, str]:
        """The text for the control tokens that tell calls from content."""
        return {} if self.opening.token_id is None else {self.opening.token_id: self.opening.shown}

    def appears_in(self, text: str, name: str) -> bool:
        """Whether a text holds a call of ``name`` in this form."""
        bracket = "" if self.closing else r"\s*\["
        return bool(re.search(rf'{re.escape(self.opening.text)}{bracket}\s*\{{\s*"name"\s*:\s*"{name}"', text))

    def write(self, calls: list[str]) -> str:
        """Write calls, each a JSON object, as text."""
        if self.closing is None:
            return f"{self.opening.text}[{', '.join(calls)}]"
        return "\n".join(f"{self.opening.text}\n{call}\n{self.closing.text}" for call in calls)

    def bind(self, tokenizer: Tokenizer) -> "CallFormat":
        """Return the form as a model with this tokenizer writes it: some have control tokens for the marks."""

        def bound(mark: Mark) -> Mark:
            return Mark(mark.text, tokenizer.control_id(mark.text))

        return CallFormat(bound(self.opening), self.closing and bound(self.closing))


HERMES = CallFormat(Mark("<tool_call>"), Mark("</tool_call>"))
MISTRAL = CallFormat(Mark("[TOOL_CALLS]"))
FORMATS = (HERMES, MISTRAL)
