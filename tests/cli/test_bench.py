"""``expertmesh bench`` against a real mesh: counts, figures for programs, failures. No time is held to anything."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields

import pytest
from demo_model import NAME
from http_serving import serving
from typer.testing import CliRunner

from expertmesh.cli import exit_codes
from expertmesh.cli.main import app
from expertmesh.errors import ApiKeyError, ConfigError, GatewayError
from expertmesh.loadgen.summary import Spread, Summary

COMMAND = (sys.executable, "-m", "expertmesh.cli.main", "bench")
SHORT = ("--requests", "6", "--clients", "3", "--warmup", "0", "--prompt-tokens", "9", "--max-tokens", "5")
NOWHERE = "http://127.0.0.1:1"
TIMES = ("ttft_seconds", "tpot_seconds", "itl_seconds", "e2e_seconds")


@pytest.fixture(scope="module")
def served():
    with serving() as served:
        yield served


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def run(*arguments):
    """Run the command in this process; errors are raised."""
    return CliRunner().invoke(app, ["bench", *arguments], catch_exceptions=False)


def figures(tmp_path, *arguments):
    file = tmp_path / "figures.json"
    result = run(*arguments, "--json", str(file))
    assert result.exit_code == 0
    return json.loads(file.read_text()), result.stdout


def assert_whole(found):
    """Every figure is there and fits the others."""
    assert set(found) == {"url", "model", "load", "is_interrupted", *(field.name for field in fields(Summary))}
    for name in TIMES:
        assert set(found[name]) == {field.name for field in fields(Spread)}
        assert 0 <= found[name]["p50"] <= found[name]["p90"] <= found[name]["p99"]
    for rate, count in (("requests", "num_answered"), ("prompt_tokens", "prompt_tokens"),
                        ("output_tokens", "output_tokens")):  # fmt: skip
        assert found[f"{rate}_per_second"] == pytest.approx(found[count] / found["seconds"])


def test_a_closed_loop_counts_what_the_server_counts(served, tmp_path):
    found, shown = figures(tmp_path, f"{served.url}/v1/", *SHORT, "--ignore-eos")
    assert_whole(found)
    assert (found["num_answered"], found["num_failed"], found["num_unfinished"]) == (6, 0, 0)
    assert (found["prompt_tokens"], found["output_tokens"]) == (6 * 9, 6 * 5)
    assert (found["model"], found["load"]["clients"], found["load"]["rate"]) == (NAME, 3, None)
    assert found["load"]["prompts"] == "9 random tokens"
    for text in (f"{NAME} at ", "3 clients", "6 answered, 0 failed", "TTFT", "p90", "requests/s"):
        assert text in shown


def test_arrivals_end_after_the_seconds(served, tmp_path):
    load = ("--rate", "40", "--seconds", "0.5", "--warmup", "1", "--max-tokens", "2:4", "--shared-prefix", "0.5")
    found, _ = figures(tmp_path, served.url, *load, "--prompt-tokens", "8:16", "--ignore-eos")
    assert_whole(found)
    answered = found["num_answered"]
    assert answered > 0
    assert 8 * answered <= found["prompt_tokens"] <= 16 * answered
    assert 2 * answered <= found["output_tokens"] <= 4 * answered
    assert (found["load"]["requests"], found["load"]["seconds"], found["load"]["rate"]) == (None, 0.5, 40.0)


def test_prompts_of_a_file_are_asked_in_turn(served, tmp_path):
    texts = ["What is 2 + 2?", "Name a colour."]
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(texts))
    lengths = [served.http.post("/tokenize", json={"prompt": text}).json()["count"] for text in texts]
    found, _ = figures(tmp_path, served.url, "--prompts", str(file), "--requests", "4", "--max-tokens", "2")
    assert found["prompt_tokens"] == 2 * sum(lengths)
    assert found["load"]["prompts"] == "2 given texts"


def test_refusals_are_shown_with_their_status_and_fail(served, tmp_path, capsys):
    file = tmp_path / "figures.json"
    with pytest.raises(GatewayError, match="none of 6 requests was answered") as failed:
        app(["bench", served.url, *SHORT, "--model", "other", "--json", str(file)], standalone_mode=False)
    assert exit_codes.exit_code(failed.value) == exit_codes.GATEWAY
    found = json.loads(file.read_text())
    assert (found["num_answered"], found["num_failed"], found["ttft_seconds"]) == (0, 6, None)
    (failure,) = found["failures"]
    assert (failure["status"], failure["count"]) == (404, 6)
    assert failure["error"] == f"HTTP 404: model 'other' is not served here; {NAME!r} is"
    assert failure["error"] in capsys.readouterr().out


def test_a_key_is_sent():
    with serving(api_keys=("sesame",)) as guarded:
        assert run(guarded.url, *SHORT, "--api-key", "sesame").exit_code == 0
        with pytest.raises(ApiKeyError, match="answered 401"):
            run(guarded.url, *SHORT, "--api-key", "other")


def test_a_mesh_that_dies_fails_what_it_has_not_answered(tmp_path):
    file = tmp_path / "figures.json"
    load = ("--rate", "30", "--requests", "60", "--warmup", "0", "--max-tokens", "4", "--json", str(file))
    with serving() as served:
        command = [*COMMAND, served.url, *load]
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_for_answers(served, 3)
    shown, errors = running.communicate(timeout=60)
    assert (running.returncode, errors) == (0, "")
    found = json.loads(file.read_text())
    assert 3 <= found["num_answered"] < 60
    assert found["num_answered"] + found["num_failed"] == 60
    assert sum(failure["count"] for failure in found["failures"]) == found["num_failed"]
    refused = next(failure for failure in found["failures"] if failure["error"].startswith("ConnectError"))
    assert refused["status"] is None
    assert "ConnectError" in shown


@pytest.fixture
def heard_ctrl_c() -> Iterator[None]:
    """Children hear Ctrl-C: those of a shell's background job would ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard_ctrl_c")
def test_ctrl_c_ends_early_and_shows_what_there_is(served, tmp_path):
    file = tmp_path / "figures.json"
    before = num_answers(served)
    load = ("--clients", "2", "--seconds", "600", "--warmup", "0", "--max-tokens", "8", "--json", str(file))
    with subprocess.Popen(
        [*COMMAND, served.url, *load], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        wait_for_answers(served, before + 5)
        running.send_signal(signal.SIGINT)
        shown, errors = running.communicate(timeout=60)
    assert (running.returncode, errors) == (exit_codes.INTERRUPTED, "")
    found = json.loads(file.read_text())
    assert_whole(found)
    assert found["is_interrupted"]
    assert found["num_answered"] >= 3
    assert found["num_unfinished"] <= 2
    assert "given up: interrupted" in shown
    served.wait_idle()


def num_answers(served) -> int:
    """Count what the mesh has answered."""
    lines = served.http.get("/metrics").text.splitlines()
    return int(sum(float(line.split()[-1]) for line in lines if line.startswith("expertmesh_requests_total{")))


def wait_for_answers(served, count: int) -> None:
    deadline = time.monotonic() + 60
    while num_answers(served) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_picture_is_drawn(served, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "times.png"
    assert run(served.url, *SHORT, "--plot", str(picture)).exit_code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("127.0.0.1:8000",), "'127.0.0.1:8000' is no URL of a server"),
        ((NOWHERE, "--clients", "2", "--rate", "3"), "--clients 2 and --rate 3"),
        ((NOWHERE, "--rate", "inf"), "--rate is inf"),
        ((NOWHERE, "--seconds", "inf"), "--seconds is inf"),
        ((NOWHERE, "--prompts", __file__, "--prompt-tokens", "5"), "--prompts .* gives the prompts"),
        ((NOWHERE, "--prompts", "/nowhere"), "/nowhere cannot be read"),
        ((NOWHERE, "--prompt-tokens", "5:4"), "--prompt-tokens: '5:4' is no length"),
        ((NOWHERE, "--max-tokens", "x"), "--max-tokens: 'x' is no length"),
        ((NOWHERE, "--json", "/nowhere/figures.json"), "/nowhere is not a directory"),
    ],
)
def test_flags_that_make_no_run_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        run(*arguments)


def test_a_server_that_is_not_there_is_named():
    with pytest.raises(GatewayError, match="http://127.0.0.1:1/v1/models cannot be reached"):
        run(NOWHERE)


@pytest.mark.parametrize(("missing", "flags"), [("httpx_sse", ()), ("matplotlib", ("--plot", "times.png"))])
def test_what_is_not_installed_is_named_with_what_installs_it(monkeypatch, missing, flags):
    for module in ("expertmesh.cli.bench", "expertmesh.loadgen.plot"):
        monkeypatch.setattr(f"{module}.find_spec", lambda name: None if name == missing else object())
    with pytest.raises(ConfigError, match=rf"needs {missing}.*pip install 'expertmesh\[bench\]'"):
        run(NOWHERE, *flags)
