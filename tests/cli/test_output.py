import json
import shlex
import subprocess
from contextlib import ExitStack

from expertmesh.cli.output import Asking, MeshOutput, suggestions


def test_the_suggested_request_is_whole():
    generate, curl, chat = suggestions(["127.0.0.1:50051", "http://127.0.0.1:8000"], Asking("org/it's"))
    assert chat == "[up] chat: http://127.0.0.1:8000/"
    assert shlex.split(generate)[-1] == "127.0.0.1:50051"
    words = shlex.split(curl)
    assert "http://127.0.0.1:8000/v1/chat/completions" in words
    body = json.loads(words[-1])
    assert (body["model"], body["messages"][0]["role"]) == ("org/it's", "user")


def test_a_key_is_suggested_where_one_is_needed_and_not_shown():
    first, _, curl, _ = suggestions(["127.0.0.1:50051", "http://127.0.0.1:8000"], Asking("model", needs_key=True))
    assert "EXPERTMESH_API_KEY" in first
    header = curl[curl.index("-H ") + len("-H ") :].partition(" -H ")[0]
    shown = subprocess.run(
        ["sh", "-c", f"printf %s {header}"], env={"EXPERTMESH_API_KEY": "one two"}, capture_output=True, check=True
    )
    assert shown.stdout == b"authorization: Bearer one"


def test_an_authority_is_suggested_where_there_is_tls():
    first, generate, curl, _ = suggestions(["127.0.0.1:1", "https://127.0.0.1:2"], Asking("model", has_tls=True))
    assert "EXPERTMESH_CA" in first and "--endpoint 127.0.0.1:1" in generate
    assert 'curl --cacert "$EXPERTMESH_CA" https://127.0.0.1:2/v1/' in curl


def test_without_http_there_is_no_request_to_suggest():
    assert len(suggestions(["127.0.0.1:50051"], Asking("model"))) == 1


def test_suggestions_come_once_everything_is_ready(capfd):
    with ExitStack() as starting:
        output = MeshOutput("gateway", Asking("model"), 2, starting)
        output.ready("gateway", "127.0.0.1:2 http://127.0.0.1:3")
        output.show("experts 0-7", "ready: or so it says")
        output.ready("gateway", "127.0.0.1:2 http://127.0.0.1:3")
        assert "try" not in capfd.readouterr().out
        output.ready("experts 0-7", "127.0.0.1:1")
        shown = capfd.readouterr().out
        assert "--endpoint 127.0.0.1:2" in shown and "curl http://127.0.0.1:3/" in shown
        output.ready("experts 0-7", "127.0.0.1:1")
        assert capfd.readouterr().out == ""
