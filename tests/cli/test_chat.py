"""``expertmesh chat`` as a person meets it: a terminal, keys, a gateway that says what its script says."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from scripted_gateway import FOREVER, ScriptedGateway, serving

from expertmesh.errors import InvalidRequestError

pytest.importorskip("termios")
from terminal import Terminal, run_in_terminal  # noqa: E402

Conversation = list[tuple[str, str]]


def talk(script: Sequence[Sequence[Any]], use: Callable[[str], object]) -> list[Conversation]:
    """Run ``use(address)`` beside a gateway with that script, and return the conversations that it was sent."""

    async def run() -> list[Conversation]:
        gateway = ScriptedGateway(*script)
        async with serving(gateway) as address:
            await asyncio.to_thread(use, address)
        return [[(message.role, message.content) for message in request.messages] for request in gateway.requests]

    return asyncio.run(run())


def talk_in_terminal(script: Sequence[Sequence[Any]], use: Callable[[Terminal], object]) -> list[Conversation]:
    def open_terminal(address: str) -> None:
        with run_in_terminal("chat", "--endpoint", address) as terminal:
            terminal.wait_for("scripted at ")
            terminal.wait_for(">")
            use(terminal)

    return talk(script, open_terminal)


def test_a_stopped_answer_stays_in_the_conversation_with_its_question():
    def use(terminal: Terminal) -> None:
        terminal.press("first\r")
        terminal.wait_for("Well")
        terminal.press("\x03")
        terminal.wait_for("(stopped)")
        terminal.wait_for(">")
        terminal.press("second\r")
        terminal.wait_for("Fine")
        terminal.wait_for(">")
        terminal.press("\x04")
        terminal.rest()
        assert terminal.program.returncode == 0

    first = ("user", "first")
    assert talk_in_terminal([["Well", FOREVER], ["Fine"]], use) == [
        [first],
        [first, ("assistant", "Well"), ("user", "second")],
    ]


@pytest.mark.parametrize("answer", [[], [InvalidRequestError("no")]])
def test_a_question_without_an_answer_is_forgotten(answer):
    def use(terminal: Terminal) -> None:
        terminal.press("first\r")
        terminal.wait_for(">")
        terminal.press("second\r")
        terminal.wait_for("Fine")

    assert talk_in_terminal([answer, ["Fine"]], use) == [[("user", "first")], [("user", "second")]]


def test_a_pasted_block_is_one_message():
    def use(terminal: Terminal) -> None:
        terminal.press("\x1b[200~one\ntwo\n\nthree\x1b[201~")
        terminal.wait_for("three")
        terminal.press("\r")
        terminal.wait_for("Fine")

    assert talk_in_terminal([["Fine"]], use) == [[("user", "one\ntwo\n\nthree")]]


def test_ctrl_c_forgets_a_line_and_then_leaves_on_a_line_of_its_own():
    def use(terminal: Terminal) -> None:
        terminal.press("never mind")
        terminal.wait_for("never mind")
        terminal.press("\x03")
        terminal.wait_for(">")
        terminal.press("\x03")
        assert terminal.rest().endswith("\n")
        assert terminal.program.returncode == 130

    assert talk_in_terminal([], use) == []


def test_answers_go_into_a_file_while_a_person_sees_what_is_typed(tmp_path):
    def use(address: str) -> None:
        with run_in_terminal("chat", "--endpoint", address, into=tmp_path / "answers") as terminal:
            terminal.wait_for(">")
            terminal.press("first\r")
            terminal.wait_for("first")
            terminal.wait_for(">")
            terminal.press("\x04")
            terminal.rest()

    talk([["Fine"]], use)
    assert (tmp_path / "answers").read_text() == "Fine\n"


def run(*arguments: str, stdin: bytes = b"", **environment: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, "-m", "expertmesh.cli.main", *arguments],
        input=stdin,
        capture_output=True,
        timeout=60,
        env={**os.environ, **environment},
    )


def test_without_a_terminal_each_line_is_a_message():
    def use(address: str) -> None:
        ended = run("chat", "--endpoint", address, stdin=b"first\n\nsecond")
        assert (ended.returncode, ended.stdout) == (0, b"One\nTwo\n")

    [_, last] = talk([["One"], ["Two"]], use)
    assert last == [("user", "first"), ("assistant", "One"), ("user", "second")]


def test_what_is_piped_into_generate_has_no_newline_of_the_shell():
    def use(address: str) -> None:
        assert run("generate", "-", "--endpoint", address, stdin=b"two\nlines\n").returncode == 0

    assert talk([["Fine"]], use) == [[("user", "two\nlines")]]


def test_what_is_no_text_is_refused_in_a_line():
    ended = run("generate", "-", "--endpoint", "127.0.0.1:1", stdin=b"\xff\xfe")
    assert (ended.returncode, ended.stderr.count(b"\n")) == (2, 1)
    assert b"standard input is no text in utf-8" in ended.stderr


def test_what_an_encoding_lacks_becomes_a_question_mark():
    def use(address: str) -> None:
        ended = run("generate", "hi", "--endpoint", address, PYTHONIOENCODING="ascii")
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"caf? ?\n", b"")

    talk([["café ", "☕"]], use)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_is_told_in_a_line():
    def use(address: str) -> None:
        with open("/dev/full", "wb") as full:
            command = [sys.executable, "-m", "expertmesh.cli.main", "generate", "hi", "--endpoint", address]
            ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=60)
        assert (ended.returncode, ended.stderr) == (1, b"error: cannot write: No space left on device\n")

    talk([["Fine"]], use)


def test_of_several_keys_in_the_environment_the_first_is_shown():
    async def run_with_keys() -> str:
        gateway = ScriptedGateway(["Fine"])
        async with serving(gateway) as address:
            environment = {"EXPERTMESH_API_KEY": "first second"}
            ended = await asyncio.to_thread(run, "generate", "hi", "--endpoint", address, **environment)
        assert ended.returncode == 0, ended.stderr
        return gateway.metadata["authorization"]

    assert asyncio.run(run_with_keys()) == "Bearer first"
