import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
from expertmesh.rpc.memory import keep_freed_memory

if {is_kept}:
    assert keep_freed_memory()
for _ in range(20):
    bytearray(32 * 2**20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    bytearray(8 * 2**20) + bytearray(33 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_large_buffers_are_reused_instead_of_mapped_anew():
    def count_faults(is_kept):
        command = [sys.executable, "-c", FAULTS.format(is_kept=is_kept)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert count_faults(is_kept=True) < count_faults(is_kept=False) / 10
