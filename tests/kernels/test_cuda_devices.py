"""What is made of torch's answers; on a machine with GPUs also whether they are like that."""

from types import SimpleNamespace

import pytest
import torch

from expertmesh.kernels.cuda_devices import (
    CudaDevice,
    find_device,
    find_devices,
    free_bytes,
    give_back_spare,
    is_lost,
    lacks_memory,
)

CARD = SimpleNamespace(name="NVIDIA L4", total_memory=24_152_899_584, major=8, minor=9)
SLICE = SimpleNamespace(name="NVIDIA A100 MIG 1g.5gb", total_memory=4_976_214_016, major=8, minor=0)


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: (CARD, SLICE)[index])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000 * (device.index + 1), 5000))


@pytest.mark.usefixtures("two_gpus")
def test_gpus_are_told_as_torch_numbers_them():
    card, piece = find_devices()
    assert card == CudaDevice(0, "NVIDIA L4", 24_152_899_584, (8, 9))
    assert (str(card), str(piece)) == ("cuda:0 (NVIDIA L4, 24 GB)", "cuda:1 (NVIDIA A100 MIG 1g.5gb, 5 GB)")
    assert (find_device(torch.device("cuda")), find_device(torch.device("cuda", 1))) == (card, piece)
    assert find_device(torch.device("cuda", 2)) is None
    assert free_bytes(torch.device("cuda", 1)) == 2000


def test_where_torch_finds_none_there_are_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_devices() == ()
    assert find_device(torch.device("cuda")) is None


def test_what_torch_keeps_is_given_back_also_where_it_keeps_nothing():
    give_back_spare()


@pytest.mark.gpu
def test_a_real_gpu_has_a_name_and_room():
    device = find_devices()[0]
    assert device.name
    assert 0 < free_bytes(torch.device("cuda", 0)) <= device.memory_bytes


@pytest.mark.parametrize(
    ("error", "lacks", "loses"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True, False),
        (torch.AcceleratorError("CUDA error: out of memory"), True, False),
        (RuntimeError("Triton Error [CUDA]: out of memory"), True, False),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), False, True),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), False, True),
        (RuntimeError("Triton Error [HIP]: Code: 719, unspecified launch failure"), False, True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False, False),
        (ZeroDivisionError(), False, False),
    ],
    ids=repr,
)
def test_errors_say_whether_memory_is_lacking_or_a_gpu_is_lost(error, lacks, loses):
    assert (lacks_memory(error), is_lost(error)) == (lacks, loses)
