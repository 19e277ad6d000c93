"""Logging of a process: one plain line per record on standard error, whatever is in it, and a traceback indented."""

import logging

from expertmesh.cli.line_writer import STDERR, LineWriter
from expertmesh.cli.printable import printable, printable_lines
from expertmesh.errors import ConfigError

LEVELS = ("debug", "info", "warning", "error")
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# What follows a record's line begins so, and no record does: names and messages of strangers may hold newlines.
INDENT = "    "


def configure_logging(level: str) -> None:
    """Send records of ``level`` and above to standard error; ConfigError for another word."""
    if level not in LEVELS:
        raise ConfigError(f"log level {level!r} is unknown; use one of {', '.join(LEVELS)}")
    handler = _LineHandler(LineWriter(STDERR))
    handler.addFilter(_shorten)
    handler.setFormatter(_PrintableFormatter(FORMAT))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class _PrintableFormatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        """Write the line of a record."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: object) -> str:  # noqa: N802  # logging's name
        """Write a traceback below it."""
        return _indent(super().formatException(ei))  # type: ignore[arg-type]

    def formatStack(self, stack_info: str) -> str:  # noqa: N802  # logging's name
        """Write a stack below it."""
        return _indent(super().formatStack(stack_info))


def _shorten(record: logging.LogRecord) -> bool:
    """Leave out gRPC's own frames where a peer's message cannot be decoded: who sends such messages can send many."""
    if record.name == "grpc._common" and record.exc_info:
        record.msg, record.args, record.exc_info = f"{record.getMessage()} {record.exc_info[1]}", (), None
    return True


def _indent(text: str) -> str:
    return INDENT + printable_lines(text).replace("\n", f"\n{INDENT}")


class _LineHandler(logging.Handler):
    def __init__(self, lines: LineWriter) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        try:
            self._lines.write(self.format(record))
        except Exception:
            self.handleError(record)
