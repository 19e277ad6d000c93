import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from expertmesh.kernels import private_places
from expertmesh.kernels.private_places import SharedPlaceError, check_private, is_private, private_directory

SOMEBODY = 4321
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users")

# Prints the directory that a process gets.
CHOOSE = """
import sys
from pathlib import Path
from expertmesh.kernels.private_places import private_directory
directory = private_directory(Path(sys.argv[1]))
assert directory.is_dir()
print(directory)
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A directory of which everything above is private, wherever temporary files are."""
    tmp_path.chmod(0o700)
    check_private(tmp_path)
    return tmp_path


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_a_directory_is_made_for_this_user_alone_whatever_the_umask(base):
    before = os.umask(0)
    try:
        directory = private_directory(base / "a" / "b")
    finally:
        os.umask(before)
    assert directory == base / "a" / "b"
    assert [mode_of(path) for path in (directory, directory.parent)] == [0o700, 0o700]
    assert private_directory(directory) == directory


def test_a_link_in_the_way_is_followed_to_where_it_leads(base):
    (base / "real").mkdir(mode=0o700)
    (base / "link").symlink_to(base / "real")
    assert private_directory(base / "link" / "cache") == base / "real" / "cache"


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_what_others_may_write_is_refused(base, mode):
    base.chmod(mode)
    with pytest.raises(SharedPlaceError, match=rf"others may write {base}: its mode is {mode:04o}"):
        check_private(base)


@pytest.mark.parametrize(("mode", "is_fine"), [(0o770, False), (0o707, False), (0o1777, True), (0o755, True)])
def test_a_parent_in_which_others_may_rename_things_is_refused(base, mode, is_fine):
    directory = base / "shared" / "between" / "own"
    directory.mkdir(parents=True)
    for place in (directory, directory.parent):
        place.chmod(0o700)
    (base / "shared").chmod(mode)
    if is_fine:
        check_private(directory)
    else:
        with pytest.raises(SharedPlaceError, match=rf"others may replace what is in {base / 'shared'}: .*{mode:04o}"):
            check_private(directory)


def test_a_link_is_refused(base):
    (base / "link").symlink_to(base)
    with pytest.raises(SharedPlaceError, match="link is a link"):
        check_private(base / "link")


def test_what_another_user_owns_is_refused(base, monkeypatch):
    owner = base.stat().st_uid
    monkeypatch.setattr(private_places, "ROOT", -1)
    monkeypatch.setattr(os, "geteuid", lambda: SOMEBODY)
    with pytest.raises(SharedPlaceError, match=rf"{base} is owned by user {owner}, and this is user {SOMEBODY}"):
        check_private(base)


@as_root
def test_a_parent_that_another_user_owns_is_refused_even_with_the_sticky_bit(base):
    (base / "theirs" / "own").mkdir(parents=True)
    (base / "theirs").chmod(0o1755)
    os.chown(base / "theirs", SOMEBODY, -1)
    with pytest.raises(SharedPlaceError, match=rf"theirs is owned by user {SOMEBODY}"):
        check_private(base / "theirs" / "own")


def test_an_empty_dir_of_kubernetes_may_have_every_mode(base, monkeypatch):
    volume, mounts = base / "volume", base / "mountinfo"
    (volume / "own").mkdir(parents=True)
    (volume / "own").chmod(0o700)
    volume.chmod(0o777)
    monkeypatch.setattr(private_places, "MOUNTS", mounts)
    line = "611 600 8:1 /var/lib/kubelet/pods/1-2/volumes/{kind}/cache {where} rw,relatime - ext4 /dev/sda1 rw\n"
    mounts.write_text(line.format(kind="kubernetes.io~empty-dir", where=volume))
    check_private(volume / "own")
    for other in (
        line.format(kind="kubernetes.io~nfs", where=volume),
        line.format(kind="kubernetes.io~empty-dir", where=volume / "other"),
        "",
    ):
        mounts.write_text(other)
        with pytest.raises(SharedPlaceError):
            check_private(volume / "own")
    mounts.unlink()
    with pytest.raises(SharedPlaceError):
        check_private(volume / "own")


@pytest.mark.parametrize("kind", ["shared", "file", "relative"])
def test_elsewhere_there_is_a_new_one_that_goes_with_the_process_and_a_warning(base, kind):
    wanted = {"shared": base / "shared" / "cache", "file": base / "file" / "cache", "relative": Path("~/cache")}[kind]
    (base / "shared").mkdir()
    (base / "shared").chmod(0o777)
    (base / "file").touch()
    command = [sys.executable, "-c", CHOOSE, str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, cwd=base)
    assert Path(done.stdout.strip()).parent != wanted.parent
    assert not Path(done.stdout.strip()).exists()
    assert f"kept for this process alone, and not in {wanted}" in done.stderr


def test_a_private_file_is_told_from_others(base, caplog):
    file = base / "file"
    assert not is_private(file)
    file.touch(mode=0o600)
    assert is_private(file)
    assert not caplog.records
    file.chmod(0o620)
    with caplog.at_level(logging.WARNING):
        assert not is_private(file)
    assert f"not used: others may write {file}" in caplog.text
