"""The dashboard in a real browser, with a mesh behind it. Skipped where there is no Chromium or no driver for it."""

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from browsing import WIDE, contrast, expect, needs_chromium, violations
from http_serving import Served, serving
from integration_mesh import QUARTERS

pytestmark = needs_chromium

NARROW = {"width": 360, "height": 800}
NUM_EXPERTS, NUM_LAYERS = 8, 4
LONG = {"prompt": ["Hello"] * 4, "max_tokens": 60, "ignore_eos": True}
RATES = "[...document.querySelectorAll('#heat td')].map((cell) => cell.textContent)"
BUSY = "#heat td:not([data-level='0'])"
STEPS = "[...document.querySelectorAll('#heat-legend i')].map(getComputedStyle)"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(hosts=QUARTERS) as mesh:
        yield mesh


@pytest.fixture
def open_page(open_page) -> Callable[..., Any]:
    """Open the dashboard of a gateway."""
    return lambda url, **options: open_page(f"{url}/dashboard", **options)


def wait_live(page: Any) -> None:
    expect(page.get_by_role("status")).to_have_text("Live")


@contextmanager
def under_load(served: Served) -> Iterator[None]:
    """Ask the gateway again and again until the body ends."""
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            served.http.post("/v1/completions", json=LONG).raise_for_status()

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            yield
        finally:
            done.set()
        asking.result()


def focused_name(page: Any) -> str:
    return str(page.evaluate("document.activeElement.getAttribute('aria-label')"))


def cells_of(page: Any, column: int) -> list[str]:
    return list(page.locator(f"#experts tbody tr > :nth-child({column})").all_inner_texts())


def test_numbers_follow_the_load_and_nothing_is_asked_elsewhere(served, open_page):
    page = open_page(served.url)
    wait_live(page)
    assert page.evaluate(RATES) == ["0"] * (NUM_EXPERTS * NUM_LAYERS)
    assert cells_of(page, 10) == ["1 of 1"] * NUM_EXPERTS
    with under_load(served):
        expect(page.locator(BUSY).first).to_be_visible()
        expect(page.locator("#heat td[data-level='6']").first).to_be_visible()
        expect(page.locator("#now-running")).to_have_text("4")
    expect(page.locator(BUSY)).to_have_count(0)
    shares = [int(expert["tokens"]) for expert in served.http.get("/dashboard/load").json()["load"]["experts"]]
    seen = [float(text.removesuffix(" %")) for text in cells_of(page, 5)]
    assert seen == pytest.approx([100 * tokens / sum(shares) for tokens in shares], abs=0.51)
    assert all(text.endswith(" ms") for text in cells_of(page, 8) + cells_of(page, 9))
    assert all("L" in path.get_attribute("d") for path in page.locator("#lines .plot path, #experts path").all())
    assert (page.problems, page.hosts) == ([], {urlsplit(served.url).netloc})


def test_the_heat_map_is_walked_by_keys_and_every_cell_has_a_name(served, open_page):
    page = open_page(served.url)
    wait_live(page)
    page.get_by_role("button", name="Pause").focus()
    page.keyboard.press("Tab")
    walk = [
        ("ArrowUp", 0, 0),
        ("ArrowRight", 0, 1),
        ("ArrowDown", 1, 1),
        ("End", 1, NUM_LAYERS - 1),
        ("Control+End", NUM_EXPERTS - 1, NUM_LAYERS - 1),
        ("ArrowRight", NUM_EXPERTS - 1, NUM_LAYERS - 1),
        ("Home", NUM_EXPERTS - 1, 0),
        ("ArrowUp", NUM_EXPERTS - 2, 0),
        ("Control+Home", 0, 0),
    ]
    for key, expert, layer in walk:
        page.keyboard.press(key)
        name = focused_name(page)
        assert re.fullmatch(rf"Expert {expert}, layer {layer}: [\d.]+ tokens per second", name)
        assert page.locator("#heat-readout").inner_text().startswith(name.split(":")[0])
    assert page.evaluate("getComputedStyle(document.activeElement).outlineWidth") == "3px"
    assert page.get_by_role("gridcell", name=re.compile("^Expert")).count() == NUM_EXPERTS * NUM_LAYERS
    page.keyboard.press("Tab")
    expect(page.get_by_role("region", name="Table of experts").last).to_be_focused()


def test_where_layers_do_not_fit_beside_each_other_they_go_down_and_the_focus_stays(make_mixtral, open_page):
    with serving(make_mixtral(num_local_experts=4, num_hidden_layers=12).directory) as served:
        page = open_page(served.url, viewport=WIDE)
        wait_live(page)
        expect(page.locator("#heat th").first).to_have_text("Expert")
        page.get_by_role("gridcell", name=re.compile("^Expert 2, layer 1:")).focus()
        page.set_viewport_size(NARROW)
        expect(page.locator("#heat th").first).to_have_text("Layer")
        assert focused_name(page).startswith("Expert 2, layer 1:")
        page.keyboard.press("ArrowDown")
        assert focused_name(page).startswith("Expert 2, layer 2:")


@pytest.mark.parametrize(("scheme", "size"), [("light", WIDE), ("dark", NARROW)], ids=["light-wide", "dark-narrow"])
def test_nothing_hinders_assistive_technology_and_nothing_sticks_out(served, open_page, scheme, size):
    page = open_page(served.url, viewport=size, color_scheme=scheme, reduced_motion="reduce")
    with under_load(served):
        expect(page.locator(BUSY).first).to_be_visible()
        found = violations(page)
    assert found == []
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
    assert page.evaluate("getComputedStyle(document.querySelector('.bar i')).transitionDuration") == "0s"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_step_of_the_heat_can_be_read(served, open_page, scheme):
    page = open_page(served.url, color_scheme=scheme)
    wait_live(page)
    colours = page.evaluate(f"{STEPS}.map((step) => [step.backgroundColor, step.color])")
    assert len({ground for ground, _ in colours}) == 7
    assert min(contrast(ground, text) for ground, text in colours) >= 4.5


def test_a_table_that_is_too_wide_shows_it_and_is_scrolled_by_keys(served, open_page):
    page = open_page(served.url, viewport=NARROW)
    wait_live(page)
    table = page.get_by_role("region", name="Table of experts")
    expect(table).not_to_have_css("mask-image", "none")
    table.focus()
    for _ in range(40):
        page.keyboard.press("ArrowRight")
    expect(table).to_have_css("mask-image", "none")
    assert table.evaluate("box => box.scrollWidth - box.clientWidth - box.scrollLeft") < 2
    for _ in range(40):
        page.keyboard.press("ArrowLeft")
    expect(table).not_to_have_css("mask-image", "none")
    page.set_viewport_size(WIDE)
    expect(table).to_have_css("mask-image", "none")


def test_paused_it_asks_no_more_and_a_gateway_that_is_away_is_asked_again(served, open_page):
    page = open_page(served.url)
    wait_live(page)
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("status")).to_have_text("Paused")
    page.context.set_offline(True)
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("status")).to_contain_text("No answer")
    page.context.set_offline(False)
    wait_live(page)


def test_a_key_is_asked_for_and_kept(open_page, tmp_path):
    (tmp_path / "keys").write_text("generates name=anna scopes=generate")
    with serving(api_keys=("sesame",), api_key_file=tmp_path / "keys") as guarded:
        page = open_page(guarded.url)
        field = page.get_by_label("API key of this gateway")
        expect(field).to_be_focused()
        expect(page.get_by_role("alert")).to_have_text("This gateway wants an API key.")
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("This gateway does not know that key.")
        page.keyboard.type("generates")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text(
            "the API key anna is good for generate; /dashboard/load asks for load"
        )
        page.keyboard.type("sesame")
        page.keyboard.press("Enter")
        wait_live(page)
        expect(field).to_be_hidden()
        page.reload()
        wait_live(page)
        statuses = ("401", "401", "403")
        assert len(page.problems) == 3
        assert all(status in problem for status, problem in zip(statuses, page.problems, strict=True))
