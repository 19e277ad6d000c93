"""Pages put together from their parts, and what a browser may do with them. Knows files, not what they show."""

import hashlib
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

# What pages have in common.
SHARED = files(__package__) / "parts"
SHARED_STYLES = ("page.css",)
SHARED_SCRIPTS = ("elements.js", "gateway.js", "key_form.js", "scroll_edge.js")


@dataclass(frozen=True)
class Page:
    """A document that needs nothing else, and its headers."""

    html: str
    headers: Mapping[str, str]


def read_page(parts: Traversable, styles: Sequence[str], scripts: Sequence[str]) -> Page:
    """Put styles and scripts of ``parts``, after the shared ones, into its ``page.html``; only they may take effect.

    ``{{name}}`` stands for ``style``, ``script``, or the shared document ``name.html``.
    """
    style = "\n".join((*map(_read_shared, SHARED_STYLES), *(_read(parts / name) for name in styles)))
    script = "\n".join((*map(_read_shared, SHARED_SCRIPTS), *(_read(parts / name) for name in scripts)))
    whole = {"style": style, "script": script}
    html = re.sub(
        r"{{(\w+)}}",
        lambda slot: whole.get(slot[1]) or _read_shared(f"{slot[1]}.html"),
        _read(parts / "page.html"),
    )
    return Page(html, _headers(style, script))


def _read_shared(name: str) -> str:
    return _read(SHARED / name)


def _read(part: Traversable) -> str:
    return part.read_text(encoding="utf-8")


def _headers(style: str, script: str) -> dict[str, str]:
    return {
        "Content-Security-Policy": _policy(style, script),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }


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
