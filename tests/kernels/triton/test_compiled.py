from pathlib import Path

import pytest

pytest.importorskip("triton")

from triton import knobs

from expertmesh.kernels.triton.compiled import choose_cache


@pytest.fixture(autouse=True)
def own_knobs(monkeypatch):
    """Leave Triton as it was: its setting is written through to the environment."""
    monkeypatch.setenv("TRITON_CACHE_DIR", "")
    with knobs.cache.scope():
        yield


def test_a_private_cache_is_kept_and_filled_with_what_was_compiled_ahead(tmp_path):
    ahead, cache = tmp_path / "ahead", tmp_path / "cache"
    (ahead / "key").mkdir(parents=True)
    (ahead / "key" / "driver.so").write_bytes(b"module")
    cache.mkdir(mode=0o700)
    knobs.cache.dir = str(cache)
    for _ in range(2):
        choose_cache(ahead)
        assert knobs.cache.dir == str(cache)
        assert (cache / "key" / "driver.so").read_bytes() == b"module"


def test_what_others_may_write_is_no_cache(tmp_path, caplog):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (shared / "planted").touch()
    knobs.cache.dir = str(shared)
    choose_cache(tmp_path / "nothing")
    assert not list(Path(knobs.cache.dir).iterdir())
    assert f"others may write {shared}" in caplog.text
