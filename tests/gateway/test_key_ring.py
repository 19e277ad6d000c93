import asyncio
import logging
import os
from pathlib import Path

import pytest
from following import until

from expertmesh.errors import ConfigError
from expertmesh.gateway import key_ring
from expertmesh.gateway.key_ring import KeyRing


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("old\n")
    path.chmod(0o600)
    return path


def taken(ring: KeyRing) -> set[str]:
    return {secret for secret in ("flag", "old", "new", "newer") if ring.find(secret)}


def complaints(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]


def test_only_without_any_key_everybody_may_call(path):
    assert KeyRing().is_open
    assert not KeyRing(["flag"]).is_open
    assert not KeyRing((), path).is_open


def test_a_changed_file_is_taken_beside_the_keys_of_flags(path):
    ring = KeyRing(["flag"], path)
    assert taken(ring) == {"flag", "old"}
    path.write_text("new\n")
    ring.reload()
    assert taken(ring) == {"flag", "new"}


def test_a_broken_file_changes_nothing_and_is_complained_of_once(path, caplog):
    ring = KeyRing((), path)
    for text, words in (("new\nold scopes=all\n", "line 2: scopes=all"), ("", "no API key")):
        path.write_text(text)
        caplog.clear()
        for _ in range(3):
            ring.reload()
        [complaint] = complaints(caplog)
        assert str(path) in complaint and words in complaint and "go on being taken" in complaint
        assert taken(ring) == {"old"}
    path.write_text("newer\n")
    ring.reload()
    assert taken(ring) == {"newer"}


def test_a_file_that_is_gone_changes_nothing_and_is_complained_of_each_time_that_it_goes(path, caplog):
    ring = KeyRing((), path)
    for _ in range(2):
        text = path.read_text()
        path.unlink()
        caplog.clear()
        for _ in range(3):
            ring.reload()
        assert len(complaints(caplog)) == 1
        assert taken(ring) == {"old"}
        path.write_text(text)
        ring.reload()


def test_a_link_that_comes_to_lead_elsewhere_is_followed(tmp_path):
    """As kubelet changes the files of a Secret."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "keys").write_text(name)
    (tmp_path / "data").symlink_to("old")
    (tmp_path / "keys").symlink_to("data/keys")
    ring = KeyRing((), tmp_path / "keys")
    (tmp_path / "data2").symlink_to("new")
    os.replace(tmp_path / "data2", tmp_path / "data")
    ring.reload()
    assert taken(ring) == {"new"}


def test_changes_are_taken_while_it_runs(path, monkeypatch):
    monkeypatch.setattr(key_ring, "WATCH_SECONDS", 0.001)

    async def run() -> None:
        ring = KeyRing((), path)
        running = asyncio.create_task(ring.run())
        for name in ("new", "newer"):
            path.write_text(name)
            await until(lambda name=name: taken(ring) == {name})
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(run())


def test_without_a_file_there_is_nothing_to_wait_for():
    asyncio.run(KeyRing(["flag"]).run())


@pytest.mark.parametrize("text", ["", "two words\n", None])
def test_a_file_that_is_broken_at_the_start_is_an_error(path, text):
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(ConfigError, match=str(path)):
        KeyRing((), path)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_a_file_that_every_user_may_read_is_warned_of(path, caplog, mode):
    path.chmod(mode)
    KeyRing((), path)
    assert ("chmod 600" in caplog.text) == (mode == 0o644)


def test_plain_keys_are_warned_of_and_not_shown(path, caplog):
    path.write_text("sesame\n")
    KeyRing((), path)
    assert "holds 1 keys as they are" in caplog.text
    assert "sesame" not in caplog.text
