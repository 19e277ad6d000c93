"""Reading what a person writes, message by message."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession


def message_reader() -> Callable[[], str | None]:
    """Return what reads the next message, without blanks around it, and None at the end.

    In a terminal a line can be edited, earlier ones come back with the arrow keys, and a pasted block is one message.
    Otherwise each line of standard input is one.
    """
    if not sys.stdin.isatty():
        return _read_line
    from prompt_toolkit import PromptSession
    from prompt_toolkit.output import create_output

    # Answers may go into a file; what is typed is shown in the terminal all the same.
    session: PromptSession[str] = PromptSession(output=create_output(always_prefer_tty=True))
    return lambda: _ask_person(session)


def _read_line() -> str | None:
    line = sys.stdin.readline()
    return line.strip() if line else None


def _ask_person(session: "PromptSession[str]") -> str | None:
    """Ask until a line is whole; KeyboardInterrupt for Ctrl-C where nothing is written."""
    while True:
        try:
            return session.prompt("> ").strip()
        except EOFError:
            return None
        except KeyboardInterrupt:
            if not session.default_buffer.text:
                raise
