import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
from expertmesh.rpc.allocator import keep_freed_memory

if {is_kept}:
    assert keep_freed_memory()
for _ in range(20):
    bytearray(32 * 2**20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    bytearray(8 * 2**20) + bytearray(33 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


RESIDENT = """
from pathlib import Path
from expertmesh.rpc.allocator import give_back_freed_memory

def resident_kib():
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0])

if {is_given_back}:
    assert give_back_freed_memory()
for _ in range(3):
    bytearray(31 * 2**20)
before = resident_kib()
passing = [b"x" * (16 * 2**20) for _ in range(8)]
staying = [b"x" * 2**16 for _ in range(64)]
del passing
print(resident_kib() - before)
"""


def run(script):
    return int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_large_buffers_are_reused_instead_of_mapped_anew():
    assert run(FAULTS.format(is_kept=True)) < run(FAULTS.format(is_kept=False)) / 10


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_large_buffers_are_given_back_although_younger_ones_stay():
    assert run(RESIDENT.format(is_given_back=True)) < run(RESIDENT.format(is_given_back=False)) / 10
