"""Memory on huge pages is memory like any other."""

import gc

import pytest
import torch

from expertmesh.kernels.pages import HUGE_PAGE_BYTES, empty_on_huge_pages


@pytest.mark.parametrize(
    "num_bytes", [0, 1, HUGE_PAGE_BYTES - 1, HUGE_PAGE_BYTES, HUGE_PAGE_BYTES + 1, 3 * HUGE_PAGE_BYTES + 4097]
)
def test_every_byte_can_be_written_and_outlives_the_call(num_bytes):
    data = empty_on_huge_pages(num_bytes)
    assert (data.shape, data.dtype) == ((num_bytes,), torch.uint8)
    data.fill_(7)
    gc.collect()
    assert data.eq(7).all()


def test_large_memory_begins_with_a_huge_page():
    assert empty_on_huge_pages(5 * HUGE_PAGE_BYTES + 1).data_ptr() % HUGE_PAGE_BYTES == 0


def test_memory_is_given_back():
    def mapped_kib() -> int:
        with open("/proc/self/status") as status:
            return int(next(line for line in status if line.startswith("VmSize")).split()[1])

    data = empty_on_huge_pages(512 * HUGE_PAGE_BYTES)
    held = mapped_kib()
    del data
    gc.collect()
    assert mapped_kib() <= held - 512 * HUGE_PAGE_BYTES // 1024
