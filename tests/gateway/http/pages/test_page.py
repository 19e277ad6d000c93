"""Pages need nothing from elsewhere, and their policy lets nothing else in."""

import hashlib
import re
from base64 import b64encode
from importlib.resources import files

import pytest

from expertmesh.gateway.http.pages import page
from expertmesh.gateway.http.pages.chat import routes as chat
from expertmesh.gateway.http.pages.dashboard import routes as dashboard

PAGES = pytest.mark.parametrize("routes", [chat, dashboard], ids=["chat", "dashboard"])


def inline(html: str, name: str) -> list[str]:
    return re.findall(rf"<{name}\b[^>]*>(.*?)</{name}>", html, re.DOTALL)


def source_of(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@PAGES
def test_only_the_one_script_and_the_one_style_are_allowed(routes):
    read = routes.make_page()
    (script,), (style,) = inline(read.html, "script"), inline(read.html, "style")
    directives = dict(
        directive.split(" ", 1) for directive in read.headers["Content-Security-Policy"].split("; ") if directive
    )
    assert directives["script-src"] == source_of(script)
    assert directives["style-src"] == source_of(style)
    assert directives["default-src"] == "'none'"
    assert directives["connect-src"] == "'self'"


@PAGES
def test_nothing_is_loaded_from_elsewhere(routes):
    html = routes.make_page().html
    addresses = set(re.findall(r"https?://[^'\"\s>]+", html))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a namespace, which nobody loads
    assert not re.search(r"<[^>]+\s(?:src|style|on\w+)=", html.split("<script")[0])
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", html)


@PAGES
def test_every_part_is_in_the_page(routes):
    html = routes.make_page().html
    own = {part.name for part in (files(routes.__package__) / "parts").iterdir()}
    assert own == {"page.html", *routes.STYLES, *routes.SCRIPTS}
    assert "{{" not in html
    for part in page.SHARED.iterdir():
        assert part.read_text(encoding="utf-8") in html
