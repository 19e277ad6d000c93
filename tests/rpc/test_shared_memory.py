import fcntl
import os
import tempfile

import pytest

from expertmesh.rpc import shared_memory
from expertmesh.rpc.shared_memory import make_shared, take_shared

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="Linux has memfd_create")
SHRINK = getattr(fcntl, "F_SEAL_SHRINK", 0)


def open_descriptors():
    return set(os.listdir("/proc/self/fd"))


def make_memory(num_bytes=4096, seals=SHRINK):
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, num_bytes)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def make_file():
    descriptor, path = tempfile.mkstemp()
    os.unlink(path)
    return descriptor


def test_what_one_end_writes_the_other_reads_and_no_descriptor_stays():
    before = open_descriptors()
    with make_shared(10_000) as (here, descriptor):
        there = take_shared(descriptor)
    here.touch(0, 8192)
    here.view(5000, 3)[:] = 7
    assert there.view(4999, 5).tolist() == [0, 7, 7, 7, 0]
    there.view(9_999, 1)[:] = 9
    assert here.view(9_990, 10)[-1] == 9
    assert (here.num_bytes, there.num_bytes) == (10_000, 10_000)
    assert here.address == here.view(0, 1).ctypes.data
    del here, there
    assert open_descriptors() == before


@pytest.mark.parametrize(("start", "num_bytes"), [(0, 4097), (4096, 1), (5000, 1), (-1, 1)])
def test_nothing_beyond_the_memory_can_be_seen(start, num_bytes):
    with make_shared(4096) as (memory, _), pytest.raises(ValueError, match="buffer|offset"):
        memory.view(start, num_bytes)


def test_nobody_can_change_its_size():
    with make_shared(8192) as (_, descriptor):
        for num_bytes in (0, 4096, 16384):
            with pytest.raises(PermissionError):
                os.ftruncate(descriptor, num_bytes)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: make_memory(seals=0), "seals 0x0; F_SEAL_SHRINK, 0x2, would be right"),
        (lambda: make_memory(num_bytes=0), "has 0 bytes; 1 to"),
        (lambda: make_memory(num_bytes=shared_memory.MAX_SHARED_BYTES + 1), "268435457 bytes"),
        (lambda: make_memory(seals=SHRINK | getattr(fcntl, "F_SEAL_WRITE", 0)), "permitted"),
        (make_file, "Invalid argument"),
    ],
    ids=["can shrink", "empty", "too large", "read-only", "a file"],
)
def test_memory_that_could_do_harm_is_not_taken(make, words):
    before = open_descriptors()
    descriptor = make()
    try:
        with pytest.raises(OSError, match=words):
            take_shared(descriptor)
    finally:
        os.close(descriptor)
    assert open_descriptors() == before


def test_a_system_without_such_memory_has_none(monkeypatch):
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(OSError, match="no memfd_create"), make_shared(4096):
        pass
