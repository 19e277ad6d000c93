"""The chat in a real browser, with a mesh behind it. Skipped where there is no Chromium or no driver for it."""

import json
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

import pytest
from browsing import WIDE, contrast, expect, needs_chromium, violations
from demo_model import NAME, QUESTION
from http_serving import Served, serving
from integration_mesh import QUARTERS

pytestmark = needs_chromium

CHAT = "/v1/chat/completions"
NARROW = {"width": 320, "height": 640}
NUM_LAYERS = 4
SECOND = "What is 20 + 22?"
# At the first token of an answer sends SECOND, which is not taken then, and stops as HOW says: from here it
# would be too late.
AT_FIRST_TOKEN = """() => {
  const [question, send] = ["question", "send"].map((id) => document.getElementById(id));
  const key = (name) => new KeyboardEvent("keydown", { key: name, bubbles: true });
  new MutationObserver((_, observer) => {
    if (!document.querySelector("article .text:not(.question)").textContent) return;
    observer.disconnect();
    question.value = "SECOND";
    question.dispatchEvent(key("Enter"));
    HOW;
  }).observe(document.getElementById("turns"), { childList: true, subtree: true });
}"""
# Ground and text of every hue, as pixels: the page names them in a space of its own.
COLOURS = """() => {
  const pixel = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    pixel.fillStyle = colour;
    pixel.fillRect(0, 0, 1, 1);
    return [...pixel.getImageData(0, 0, 1, 1).data].slice(0, 3).join(" ");
  };
  return Array.from({ length: 360 }, (_, hue) => {
    const node = document.createElement("span");
    node.className = "expert";
    node.style.setProperty("--hue", hue);
    document.body.append(node);
    const { backgroundColor, color } = getComputedStyle(node);
    return [rgb(backgroundColor), rgb(color)];
  });
}"""


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(hosts=QUARTERS) as mesh:
        yield mesh


def ask(page: Any, question: str) -> None:
    page.get_by_label("Message", exact=True).fill(question)
    page.keyboard.press("Enter")


def wait_answered(page: Any) -> None:
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    expect(page.get_by_role("status")).to_have_text("Ready")


def answer_of(page: Any) -> Any:
    """The text of the last answer."""
    return page.locator("article").last.locator(".text:not(.question)")


def tokens_of(page: Any) -> Any:
    """The tokens of the answers."""
    return page.get_by_role("listbox", name="Tokens of this answer").get_by_role("option")


def api_choice(served: Served, *texts: str, **fields: Any) -> dict[str, Any]:
    """What the API answers at once to what user and assistant said in turn."""
    roles = ("user", "assistant")
    messages = [{"role": roles[index % 2], "content": text} for index, text in enumerate(texts)]
    return dict(served.http.post(CHAT, json={"messages": messages, **fields}).json()["choices"][0])


def answer_at_length(page: Any) -> None:
    """Have the gateway answer with as many tokens as fit."""

    def lengthen(route: Any) -> None:
        route.continue_(post_data=json.dumps({**route.request.post_data_json, "ignore_eos": True}))

    page.route(f"**{CHAT}", lengthen)


def bodies_of(page: Any) -> list[dict[str, Any]]:
    """Gather what the page asks from now on."""
    bodies: list[dict[str, Any]] = []
    page.on("request", lambda request: bodies.append(request.post_data_json) if CHAT in request.url else None)
    return bodies


def test_answers_are_those_of_the_api_and_nothing_is_asked_elsewhere(served, open_page):
    page = open_page(served.url)
    expect(page.locator("#intro")).to_contain_text(f"This is {NAME}, served by expertmesh {version('expertmesh')}.")
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    ask(page, QUESTION)
    wait_answered(page)
    first = api_choice(served, QUESTION)["message"]["content"]
    expect(answer_of(page)).to_have_text(first)
    expect(page.get_by_role("log", name="Answer")).to_have_text(first)
    ask(page, SECOND)
    second = api_choice(served, QUESTION, first, SECOND)["message"]["content"]
    expect(answer_of(page)).to_have_text(second)
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    assert [link.get_attribute("href") for link in page.get_by_role("navigation").get_by_role("link").all()] == [
        "dashboard",
        "openapi.json",
    ]
    assert (page.problems, page.hosts) == ([], {urlsplit(served.url).netloc})


def test_every_token_shows_its_experts_layer_by_layer(served, open_page):
    page = open_page(served.url)
    page.get_by_role("switch", name="Experts").check()
    ask(page, QUESTION)
    wait_answered(page)
    choice = api_choice(served, QUESTION, return_routed_experts=True, logprobs=True)
    texts = [token["token"] for token in choice["logprobs"]["content"]]
    tokens = tokens_of(page)
    assert tokens.all_inner_texts() == texts
    for token, layers in zip(tokens.all(), choice["routed_experts"], strict=True):
        token.hover()
        shown = page.locator("#chosen-layers dd").all()
        assert [[int(chip) for chip in layer.locator("span").all_inner_texts()] for layer in shown] == layers
    for layer in range(NUM_LAYERS):
        page.get_by_label("Colours of layer").select_option(str(layer))
        routes = [layers[layer] for layers in choice["routed_experts"]]
        assert [token.get_attribute("aria-label").split(": ")[-1] for token in tokens.all()] == [
            " and ".join(map(str, route)) for route in routes
        ]
        counts = [chip.split(": ") for chip in page.locator("#legend span").all_inner_texts()]
        assert {int(expert): int(count) for expert, count in counts} == {
            expert: sum(expert in route for route in routes)
            for expert in sorted({e for route in routes for e in route})
        }
        grounds = tokens.evaluate_all("nodes => nodes.map((node) => getComputedStyle(node).backgroundColor)")
        assert len(set(grounds)) == len({route[0] for route in routes})
        assert len(set(zip(grounds, (route[0] for route in routes), strict=True))) == len(set(grounds))
    page.get_by_role("switch", name="Experts").uncheck()
    expect(answer_of(page)).to_have_text(choice["message"]["content"])
    assert page.problems == []


def test_tokens_are_walked_by_keys(served, open_page):
    page = open_page(served.url)
    page.get_by_role("switch", name="Experts").check()
    ask(page, QUESTION)
    wait_answered(page)
    page.get_by_text("For programs").focus()
    page.keyboard.press("Tab")
    tokens = tokens_of(page)
    last = tokens.count() - 1
    walk = [("ArrowRight", 1), ("End", last), ("ArrowRight", last), ("ArrowLeft", last - 1), ("Home", 0)]
    for key, index in walk:
        page.keyboard.press(key)
        expect(tokens.nth(index)).to_be_focused()
        expect(tokens.nth(index)).to_have_attribute("aria-selected", "true")
        name = tokens.nth(index).get_attribute("aria-label")
        expect(page.locator("#chosen-token")).to_have_text(name.split(", layer")[0])
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Try again")).to_be_focused()


@pytest.mark.parametrize("how", ["send.click()", "question.dispatchEvent(key('Escape'))"], ids=["button", "Escape"])
def test_stopped_the_gateway_computes_no_more_and_what_came_stays(served, open_page, how):
    page = open_page(served.url)
    answer_at_length(page)
    page.evaluate(AT_FIRST_TOKEN.replace("SECOND", SECOND).replace("HOW", how))
    ask(page, QUESTION)
    expect(page.locator(".note")).to_have_text("Stopped.")
    served.wait_idle()
    text = answer_of(page).inner_text()
    assert page.locator("article").count() == 1
    expect(page.get_by_label("Message", exact=True)).to_have_value(SECOND)
    page.reload()
    expect(answer_of(page)).to_have_text(text)
    expect(page.locator(".note")).to_have_text("Stopped.")
    wait_answered(page)
    page.unroute_all()
    page.get_by_role("button", name="Try again").click()
    wait_answered(page)
    expect(answer_of(page)).to_have_text(api_choice(served, QUESTION)["message"]["content"])


def test_a_conversation_is_kept_until_a_new_one_begins(served, open_page):
    page = open_page(served.url)
    ask(page, QUESTION)
    wait_answered(page)
    page.reload()
    expect(answer_of(page)).to_have_text(api_choice(served, QUESTION)["message"]["content"])
    page.get_by_role("button", name="New conversation").click()
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    assert page.locator("article").count() == 0
    page.reload()
    expect(page.locator("#intro")).to_be_visible()
    assert page.locator("article").count() == 0


def test_settings_are_sent_and_kept(served, open_page):
    page = open_page(served.url)
    bodies = bodies_of(page)
    page.get_by_text("Settings").click()
    page.get_by_label("Temperature").fill("0.5")
    page.get_by_label("Max tokens of an answer").fill("2")
    page.get_by_label("System text").fill("Be brief.")
    page.get_by_label("Message", exact=True).focus()
    page.keyboard.type("Hello")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("Anna")
    page.keyboard.press("Enter")
    expect(page.locator(".note")).to_have_text("Ended here: the answer may have no more tokens.")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello\nAnna"}]
    assert bodies == [{"messages": messages, "temperature": 0.5, "max_tokens": 2, "stream": True}]
    page.reload()
    page.get_by_text("Settings").click()
    expect(page.get_by_label("Temperature")).to_have_value("0.5")
    page.get_by_label("Temperature").fill("3")
    page.get_by_text("Settings").click()
    ask(page, QUESTION)
    expect(page.get_by_label("Temperature")).to_be_focused()
    assert len(bodies) == 1


def test_errors_can_be_read_and_what_got_no_answer_is_not_sent_again(served, open_page):
    page = open_page(served.url)
    bodies = bodies_of(page)
    too_long = "word " * 600
    ask(page, too_long)
    wait_answered(page)
    refusal = served.http.post(CHAT, json={"messages": [{"role": "user", "content": too_long}]}).json()["error"]
    expect(page.locator(".note.error")).to_have_text(f"No answer: {refusal['message']}")
    expect(page.get_by_role("log", name="Answer")).to_contain_text(refusal["message"])
    page.context.set_offline(True)
    ask(page, QUESTION)
    expect(page.locator(".note.error").last).to_contain_text("cannot be reached")
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    expect(answer_of(page)).to_have_text(api_choice(served, QUESTION)["message"]["content"])
    assert bodies[-1]["messages"] == [{"role": "user", "content": QUESTION}]


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ('data: {"error": {"message": "expert 3 is away"}}\n\n', "Broken off: expert 3 is away"),
        ("", "Broken off: the gateway hung up"),
    ],
    ids=["error", "hung up"],
)
def test_what_came_before_an_error_stays(served, open_page, end, words):
    page = open_page(served.url)
    chunk = {"choices": [{"index": 0, "delta": {"content": "<b>14</b>"}, "finish_reason": None}]}
    stream = f"data: {json.dumps(chunk)}\n\n{end}"
    page.route(f"**{CHAT}", lambda route: route.fulfill(body=stream, content_type="text/event-stream"))
    ask(page, "<img src=x onerror=alert(1)>")
    expect(page.locator(".note.error")).to_have_text(words)
    expect(answer_of(page)).to_have_text("<b>14</b>")
    expect(page.locator(".question")).to_have_text("<img src=x onerror=alert(1)>")
    assert page.problems == []


def test_tokens_that_come_together_are_told_apart(served, open_page):
    page = open_page(served.url)
    tokens = [{"token": text, "logprob": 0, "bytes": []} for text in ("One.", " Two", "\n")]
    chunk = {
        "choices": [
            {
                "delta": {"content": "One. Two\n"},
                "finish_reason": "stop",
                "logprobs": {"content": tokens},
                "routed_experts": [[[0, 1]], [[2, 3]], [[63, 0]]],
            }
        ]
    }
    stream = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
    page.route(f"**{CHAT}", lambda route: route.fulfill(body=stream, content_type="text/event-stream"))
    page.get_by_role("switch", name="Experts").check()
    ask(page, QUESTION)
    wait_answered(page)
    names = [token.get_attribute("aria-label") for token in tokens_of(page).all()]
    assert names == ["“One.”, layer 0: 0 and 1", "“␣Two”, layer 0: 2 and 3", "“↵”, layer 0: 63 and 0"]
    assert page.get_by_role("log", name="Answer").locator("p").all_inner_texts() == ["One.", "Two"]


def test_a_key_is_asked_for_and_shared_with_the_dashboard(open_page):
    with serving(api_keys=("sesame",)) as guarded:
        page = open_page(guarded.url)
        expect(page.get_by_label("API key of this gateway")).to_be_focused()
        expect(page.get_by_role("alert")).to_have_text("This gateway wants an API key.")
        page.keyboard.type("sesame")
        page.keyboard.press("Enter")
        ask(page, QUESTION)
        wait_answered(page)
        page.evaluate("sessionStorage.setItem('expertmesh-api-key', 'old')")
        ask(page, SECOND)
        expect(page.get_by_role("alert")).to_have_text("This gateway does not know that key.")
        page.keyboard.type("sesame")
        page.keyboard.press("Enter")
        wait_answered(page)
        expect(answer_of(page)).not_to_be_empty()
        page.get_by_role("link", name="Dashboard").click()
        expect(page.get_by_role("status")).to_have_text("Live")
        assert len(page.problems) == 2
        assert all("401" in problem for problem in page.problems)


@pytest.mark.parametrize(("scheme", "size"), [("light", WIDE), ("dark", NARROW)], ids=["light-wide", "dark-narrow"])
def test_nothing_hinders_assistive_technology_and_nothing_sticks_out(served, open_page, scheme, size):
    page = open_page(served.url, viewport=size, color_scheme=scheme)
    page.get_by_role("switch", name="Experts").check()
    page.get_by_text("Settings").click()
    ask(page, QUESTION)
    wait_answered(page)
    tokens_of(page).first.click()
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_tokens_of_any_expert_can_be_read(served, open_page, scheme):
    page = open_page(served.url, color_scheme=scheme)
    colours = page.evaluate(COLOURS)
    assert len(colours) == 360
    assert min(contrast(ground, text) for ground, text in colours) >= 4.5
