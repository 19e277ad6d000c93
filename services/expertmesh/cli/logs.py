"""Logging of a process: one plain line per record on standard error."""

import logging

from expertmesh.errors import ConfigError

LEVELS = ("debug", "info", "warning", "error")


def configure_logging(level: str) -> None:
    """Send records of ``level`` and above to standard error; ConfigError for another word."""
    if level not in LEVELS:
        raise ConfigError(f"log level {level!r} is unknown; use one of {', '.join(LEVELS)}")
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
