"""The page needs nothing from elsewhere, and its policy lets nothing else in."""

import hashlib
import re
from base64 import b64encode
from importlib.resources import files

from expertmesh.gateway.http.dashboard import page


def inline(html: str, name: str) -> list[str]:
    return re.findall(rf"<{name}\b[^>]*>(.*?)</{name}>", html, re.DOTALL)


def source_of(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_only_the_one_script_and_the_one_style_are_allowed():
    read = page.read_page()
    (script,), (style,) = inline(read.html, "script"), inline(read.html, "style")
    directives = dict(
        directive.split(" ", 1) for directive in read.headers["Content-Security-Policy"].split("; ") if directive
    )
    assert directives["script-src"] == source_of(script)
    assert directives["style-src"] == source_of(style)
    assert directives["default-src"] == "'none'"
    assert directives["connect-src"] == "'self'"


def test_nothing_is_loaded_from_elsewhere():
    addresses = set(re.findall(r"https?://[^'\"\s>]+", page.read_page().html))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a namespace, which nobody loads
    assert not re.search(r"<[^>]+\s(?:src|style|on\w+)=", page.read_page().html.split("<script")[0])


def test_every_part_is_in_the_page():
    parts = {part.name for part in (files(page.__package__) / "parts").iterdir()}
    assert parts == {"page.html", *page.STYLES, *page.SCRIPTS}
    assert "{{" not in page.read_page().html
