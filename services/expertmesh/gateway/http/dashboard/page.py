"""The page put together from its parts, and what a browser may do with it. Knows files, not what they show."""

import hashlib
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

STYLES = ("page.css", "parts.css")
SCRIPTS = ("numbers.js", "source.js", "time_line.js", "heat_map.js", "expert_table.js", "main.js")


@dataclass(frozen=True)
class Page:
    """A document that needs nothing else, and its headers."""

    html: str
    headers: Mapping[str, str]


def read_page() -> Page:
    """Put style and scripts into the document, and allow these alone to take effect."""
    parts = files(__package__) / "parts"
    style, script = _join(parts, STYLES), _join(parts, SCRIPTS)
    html = (parts / "page.html").read_text(encoding="utf-8")
    headers = {
        "Content-Security-Policy": _policy(style, script),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return Page(html.replace("{{style}}", style).replace("{{script}}", script), headers)


def _join(parts: Traversable, names: tuple[str, ...]) -> str:
    return "\n".join((parts / name).read_text(encoding="utf-8") for name in names)


def _policy(style: str, script: str) -> str:
    """Content Security Policy (CSP level 3): nothing is loaded but data from the gateway, nothing runs but this."""
    directives = (
        "default-src 'none'",
        "connect-src 'self'",
        "img-src data:",
        f"style-src {_hash(style)}",
        f"script-src {_hash(script)}",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    return "; ".join(directives)


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
