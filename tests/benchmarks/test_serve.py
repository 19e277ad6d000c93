import json
import threading
from contextlib import contextmanager

import pytest
import serve
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route


async def models(request):
    return JSONResponse({"data": [{"id": "tiny"}]})


async def complete(request):
    """Answer a token at a time; prompts whose first id is 13 are refused."""
    body = await request.json()
    if body["prompt"][0] == 13:
        return JSONResponse({"error": {"message": "unlucky"}}, 400)
    usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": body["max_tokens"]}

    async def events():
        for left in reversed(range(body["max_tokens"])):
            choice = {"index": 0, "text": "x", "finish_reason": None if left else "length"}
            yield f"data: {json.dumps({'choices': [choice]})}\n\n"
        yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


@contextmanager
def http_server():
    routes = [Route("/v1/models", models), Route("/v1/completions", complete, methods=["POST"])]
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), port=0, log_config=None, ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def measured(tmp_path, *flags):
    file = tmp_path / "rows.json"
    serve.main([*flags, "--json", str(file)])
    return {row["metric"]: row for row in json.loads(file.read_text())}


@pytest.mark.parametrize("pacing", [("--clients", "4"), ("--rate", "400")])
def test_two_servers_get_the_same_load(tmp_path, pacing):
    sizes = ("--requests", "10", "--prompt-tokens", "5", "--output-tokens", "3", "--shared-prefix", "0.4")
    with http_server() as one, http_server() as other:
        rows = measured(tmp_path, *pacing, *sizes, "--url", f"one={one}", "--url", f"other={other}")
    assert (rows["prompt_tokens"]["value"], rows["output_tokens"]["value"]) == (50, 30)
    assert (rows["tokens_per_piece"]["value"], rows["errors"]["value"]) == (1.0, 0)
    assert rows["output_tokens"]["peer"] == "other"
    assert rows["output_tokens"]["peer_value"] == 30


def test_refusals_are_counted_and_named(tmp_path, capsys):
    with http_server() as url:
        rows = measured(tmp_path, "--clients", "2", "--requests", "6", "--token-ids", "13:14", "--url", f"one={url}")
    assert (rows["errors"]["value"], rows["output_tokens"]["value"]) == (6, 0)
    assert "one: 6 x HTTP 400" in capsys.readouterr().out


@pytest.mark.parametrize("first_id", [13, 14])
def test_a_plot_is_written_even_of_refusals(tmp_path, first_id):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "times.png"
    ids = f"{first_id}:{first_id + 1}"
    with http_server() as url:
        flags = ("--clients", "2", "--requests", "4", "--token-ids", ids, "--url", f"one={url}")
        measured(tmp_path, *flags, "--plot", str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "flags",
    [
        ("--clients", "2"),
        ("--url", "one=http://127.0.0.1:1"),
        ("--clients", "2", "--rate", "2", "--url", "one=http://127.0.0.1:1"),
        ("--clients", "0", "--url", "one=http://127.0.0.1:1"),
        ("--clients", "2", "--url", "http://127.0.0.1:1"),
        ("--clients", "2", "--llama-server", "llama-server"),
        ("--clients", "2", "--shared-prefix", "2", "--url", "one=http://127.0.0.1:1"),
    ],
)
def test_flags_that_make_no_run_are_refused(flags):
    with pytest.raises(SystemExit) as refused:
        serve.parse(flags)
    assert refused.value.code == 2
