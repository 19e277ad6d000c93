"""Text of strangers, made safe to show: it can neither move the cursor nor clear the screen nor begin a line."""


def printable(text: str) -> str:
    """Write what is no visible character and no space as an escape: newlines, ESC, marks that turn the direction."""
    return text if text.isprintable() else "".join(map(_escape, text))


def printable_lines(text: str) -> str:
    """Do so within lines, and keep these."""
    return "\n".join(map(printable, text.split("\n")))


def _escape(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()
