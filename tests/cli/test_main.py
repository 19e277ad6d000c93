"""The command as a shell sees it: output, exit codes, and no torch where none is needed."""

import json
import socket
import subprocess
import sys

import pytest
import typer
from number_formats import fp8
from typer.core import TyperOption

from expertmesh.cli.main import app

COMMANDS = typer.main.get_group(app).commands


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "expertmesh.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={"COLUMNS": "200"})


def test_version():
    assert run("--version").stdout.startswith("expertmesh 0.")


def test_help_does_not_import_torch():
    code = "import sys; from expertmesh.cli.main import app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_shows_every_flag_with_its_default_and_environment_variable(name: str):
    text = run(name, "--help").stdout
    assert "Exit codes:" in text
    for flag in (param for param in COMMANDS[name].params if isinstance(param, TyperOption) and not param.hidden):
        assert flag.opts[0] in text
        assert f"[env var: {flag.envvar}]" in text
        assert str(flag.envvar).startswith("EXPERTMESH_")
        if flag.show_default and flag.default not in (None, False):
            assert f"[default: {flag.default}]" in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["expert", "--model", "/nowhere", "--experts", "0-x"], 2, "'0-x'"),
        (["gateway", "--model", "/nowhere"], 2, "either --experts"),
        (["gateway", "--model", "/nowhere", "--local-experts", "--experts", "a:1"], 2, "either --experts"),
        (["gateway", "--model", "/nowhere", "--experts", "nohost"], 2, "'nohost'"),
        (["gateway", "--model", "/nowhere", "--local-experts", "--kv-cache-gib", "inf"], 2, "--kv-cache-gib"),
        (["up", "--model", "/nowhere", "--kv-cache-gib", "nan"], 2, "--kv-cache-gib"),
        (["gateway", "--model", "/nowhere", "--local-experts", "--wait-seconds", "nan"], 2, "--wait-seconds"),
        (["expert", "--model", "/nowhere", "--experts", "0", "--log-level", "loud"], 2, "'loud'"),
        (["expert", "--model", "/nowhere", "--experts", "0", "--tls-cert", "a.pem"], 2, "there is no --tls-key"),
        (["expert", "--model", "/x", "--experts", "0", "--tls-cert", "/a", "--tls-key", "/b"], 2, "cannot read /a"),
        (["gateway", "--model", "/x", "--experts", "a:1", "--tls-cert", "/a", "--tls-key", "/b"], 2, "cannot read /a"),
        (["gateway", "--model", "/x", "--experts", "a:1", "--experts-ca", "/a"], 2, "cannot read /a"),
        (["generate", "x", "--ca", "/nowhere.pem"], 2, "cannot read /nowhere.pem"),
        (["top", "--cert", "a.pem", "--key", "b.pem"], 2, "there is no --ca"),
        (["expert", "--model", "/nowhere", "--experts", "0"], 3, "/nowhere is not a directory"),
        (["inspect", "/nowhere"], 3, "/nowhere is not a directory"),
        (["plan", "/nowhere", "--gpu", "rtx=1"], 2, "'rtx'"),
        (["plan", "/nowhere", "--gpu", "l4=1", "--loads", "1,x"], 2, "'1,x'"),
        (["plan", "/nowhere", "--gpu", "l4=1"], 3, "/nowhere is not a directory"),
        (["up", "--model", "/nowhere", "--trace-endpoint", "collector:4317"], 2, "'collector:4317'"),
        (["gateway", "--model", "/nowhere", "--local-experts", "--trace-sample", "2"], 2, "--trace-sample"),
        (["up", "--model", "/nowhere"], 3, "/nowhere is not a directory"),
        (["generate", "hi", "--endpoint", "127.0.0.1:1"], 4, "127.0.0.1:1"),
        (["chat", "--endpoint", "127.0.0.1:1"], 4, "127.0.0.1:1"),
        (["generate", "hi", "--json-schema", "/nowhere"], 2, "/nowhere"),
        (["generate", "hi", "--api-key", "two\nlines"], 2, "api_key"),
        (["gateway", "--model", "/nowhere", "--local-experts", "--max-num-seqs", "-1"], 2, "--max-num-seqs"),
        (["up", "--model", "/nowhere", "--expert-servers", "-1"], 2, "--expert-servers"),
        (["generate"], 2, "Missing argument"),
        (["split", "/nowhere", "/tmp/out"], 3, "/nowhere is not a directory"),
        (["quantize", "/nowhere", "/tmp/out"], 3, "/nowhere is not a directory"),
        (["quantize", "/nowhere", "/tmp/out", "--calibration-tokens", "31"], 2, "--calibration-tokens"),
        (["up", "--model", "/nowhere", "--quantize", "int3"], 2, "'int3'; one of none, int8, int4 would be right"),
        (["expert", "--model", "/nowhere", "--experts", "0", "--quantize", "8"], 2, "'8'; one of none, int8, int4"),
    ],
)
def test_errors_name_the_value_and_have_an_exit_code(arguments: list[str], code: int, message: str):
    result = run(*arguments)
    assert (result.returncode, message in result.stderr) == (code, True), result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["expert", "gateway"])
def test_a_port_in_use_is_named(make_mixtral, command: str):
    directory = make_mixtral(vocab_size=32000).directory
    experts = ["--experts", "0"] if command == "expert" else ["--local-experts"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = run(command, "--model", str(directory), *experts, "--listen", address)
    assert result.returncode == 2
    assert address in result.stderr
    assert "Traceback" not in result.stderr
    assert ("chat template: [INST] as text, as tokenizer.model has it" in result.stderr) == (command == "gateway")


def test_an_expert_that_the_model_does_not_have_is_named(make_mixtral):
    result = run("expert", "--model", str(make_mixtral().directory), "--experts", "7-8")
    assert result.returncode == 2
    assert "ids from 0 to 7" in result.stderr


def test_inspect_shows_the_numbers(make_mixtral):
    checkpoint = make_mixtral(group_size=64)
    result = run("inspect", str(checkpoint.directory))
    assert result.returncode == 0
    for text in ("MixtralForCausalLM", "awq 4-bit g64", "experts 0-7"):
        assert text in result.stdout


def test_inspect_shows_what_unpacked_weights_take(make_mixtral):
    result = run("inspect", str(make_mixtral(quantization=fp8()).directory))
    for text in ("fp8 per tensor, unpacked to float32", "196.6 KB, in memory 786.4 KB"):
        assert text in result.stdout
    assert "activation_scheme: not done: what goes into matrices is not quantized" in result.stderr


def test_inspect_says_what_a_gateway_would_make_of_text(make_mixtral):
    directory = make_mixtral().directory
    found = json.loads(run("inspect", str(directory), "--json").stdout)
    assert (found["chat_template"][:6], found["text_problem"]) == ("[INST]", None)
    (directory / "tokenizer.model").unlink()
    found = json.loads(run("inspect", str(directory), "--json").stdout)
    assert (found["chat_template"], str(directory) in found["text_problem"]) == (None, True)
    assert "so no gateway can serve it" in " ".join(run("inspect", str(directory)).stdout.split())


def test_inspect_tells_programs_the_same(make_mixtral):
    directory = make_mixtral(group_size=64).directory
    found = json.loads(run("inspect", str(directory), "--json").stdout)
    assert (found["architecture"], found["weight_format"]) == ("MixtralForCausalLM", "awq 4-bit g64")
    assert (found["num_experts"], len(found["expert_bytes"]), found["max_position_embeddings"]) == (8, 8, 512)
    assert found["total_bytes"] == found["gateway_bytes"] + sum(found["expert_bytes"])
    assert found["fingerprint"] in run("inspect", str(directory)).stdout


@pytest.mark.parametrize("command", [("inspect",), ("up", "--model")])
@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"num_hidden_layers": 3}, "tensor model.layers.2.input_layernorm.weight is in none of"),
        ("config.json", {"quantization_config": {"quant_method": "hqq"}}, "quantization hqq is not supported"),
        ("config.json", {"eos_token_id": 40000}, "eos_token_id is 40000; ids from 0 to 511"),
        ("config.json", {"rope_scaling": "yarn"}, "rope_scaling is 'yarn'; an object would be right"),
        ("generation_config.json", {"num_beams": 4}, "num_beams 4 is not supported; supported: 1"),
        ("generation_config.json", {"eos_token_id": [2, 512]}, "eos_token_id is [2, 512]; ids from 0 to 511"),
    ],
)
def test_what_cannot_be_served_is_refused_before_anything_starts(make_mixtral, command, file, changes, message):
    made = make_mixtral()
    config = made.config if file == "config.json" else {}
    (made.directory / file).write_text(json.dumps({**config, **changes}))
    result = run(*command, str(made.directory))
    assert (result.returncode, result.stdout) == (3, "")
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_split_quantize_and_inspect_work_together(make_mixtral, tmp_path):
    plain = str(make_mixtral().directory)
    quantized, shards = str(tmp_path / "quantized"), str(tmp_path / "shards")
    assert run("quantize", plain, quantized, "--format", "gptq", "--bits", "3", "--group-size", "64").returncode == 0
    assert run("split", quantized, shards).returncode == 0
    result = run("inspect", shards, "--verify")
    assert result.returncode == 0, result.stderr
    for text in ("gptq 3-bit g64", "fit in 24 GB", "8 experts"):
        assert text in result.stdout
    assert run("inspect", plain, "--verify").returncode == 3
    refused = run("quantize", quantized, str(tmp_path / "twice"))
    assert (refused.returncode, "is gptq 3-bit g64 already" in refused.stderr) == (3, True)


def test_quantize_calibrates_on_a_text(make_mixtral, tmp_path):
    model = str(make_mixtral(vocab_size=32000, num_hidden_layers=1, num_local_experts=2).directory)
    text, out = tmp_path / "text", tmp_path / "out"
    text.write_text("Experts are servers of their own, and the gate asks some of them. " * 9)
    arguments = ("quantize", model, str(out), "--group-size", "64", "--calibrate", str(text))
    result = run(*arguments, "--calibration-tokens", "100")
    assert result.returncode == 0, result.stderr
    assert sorted(path.suffix for path in out.iterdir()) == [".json", ".json", ".model", *[".safetensors"] * 3]
    assert "awq 4-bit g64" in run("inspect", str(out)).stdout
    text.write_text("Too short.")
    refused = run(*arguments)
    assert (refused.returncode, "has 3 tokens; at least 32" in refused.stderr) == (2, True), refused.stderr


@pytest.mark.parametrize("command", [("gateway", "--local-experts"), ("up",)])
@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("added_tokens.json", '{"<|im_end|>": 512}', "has 513 tokens, but vocab_size of the model is 512"),
        ("chat_template.jinja", "{% for %}", "chat_template.jinja: line 1 of the chat template is not valid"),
        ("tokenizer_config.json", '{"add_bos_token": 1}', "tokenizer_config.json: add_bos_token is 1; true or false"),
    ],
)
def test_what_makes_no_prompt_is_refused_before_anything_is_loaded(make_mixtral, command, file, content, message):
    directory = make_mixtral().directory
    (directory / file).write_text(content)
    # What else is loaded would be missed, and first.
    (directory / "model.safetensors").unlink()
    result = run(*command, "--model", str(directory))
    assert (result.returncode, message in result.stderr) == (3, True), result.stderr
    assert "Traceback" not in result.stderr


def test_a_template_of_no_use_on_the_command_line_is_named(make_mixtral):
    arguments = ("--model", str(make_mixtral().directory), "--local-experts", "--chat-template", "/nowhere")
    result = run("gateway", *arguments)
    assert (result.returncode, "--chat-template: /nowhere cannot be read" in result.stderr) == (2, True), result.stderr
