"""Which places ``up`` chooses of what a process with torch finds; and that such a process finds what this one does."""

from pathlib import Path

import pytest

from expertmesh.cli import places
from expertmesh.cli.places import VISIBLE, Place, ask, choose_places, count_kinds, find_gpus, has_driver
from expertmesh.errors import ConfigError, ExpertmeshError
from expertmesh.kernels.cuda_devices import find_devices

L4 = "NVIDIA L4, 24 GB"


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setattr(places, "has_driver", lambda: True)
    monkeypatch.setattr(places, "ask", lambda view: [("cuda:0", L4), ("cuda:1", L4)])


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("device", "backend", "expected"),
    [
        ("auto", "auto", ["cuda:0", "cuda:1"]),
        ("cuda", "auto", ["cuda:0", "cuda:1"]),
        ("cuda:1", "triton", ["cuda:1"]),
        ("cpu", "auto", ["cpu"]),
        ("auto", "cpu-a8", ["cpu"]),
        ("nowhere", "auto", ["nowhere"]),
    ],
)
def test_all_gpus_are_taken_unless_it_is_said_otherwise(device, backend, expected):
    assert [place.device for place in choose_places(device, backend)] == expected


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_is_not_there_is_named_with_those_that_are():
    there = r"cuda:0 \(NVIDIA L4, 24 GB\), cuda:1 \(NVIDIA L4, 24 GB\)"
    with pytest.raises(ConfigError, match=f"'cuda:7' is not here: {there}; auto or cpu would be right"):
        choose_places("cuda:7", "auto")


def test_without_a_driver_torch_is_not_asked(monkeypatch):
    monkeypatch.setattr(places, "has_driver", lambda: False)
    assert choose_places("auto", "auto") == [Place("cpu", "cpu")]
    with pytest.raises(ConfigError, match="'cuda' is not here: no GPU is found"):
        choose_places("cuda", "auto")


def test_slices_are_seen_one_by_one(monkeypatch):
    kinds = {"MIG-a": "A100 MIG 1g.5gb, 5 GB", "MIG-b": "A100 MIG 2g.10gb, 10 GB"}
    monkeypatch.setattr(places, "has_driver", lambda: True)
    monkeypatch.setattr(places, "ask", lambda view: [("cuda:0", kinds[dict(view)[VISIBLE]])])
    found = find_gpus("MIG-a,MIG-b")
    assert found == [Place("cuda:0", kind, ((VISIBLE, name),)) for name, kind in kinds.items()]


def test_places_of_a_kind_are_counted():
    assert count_kinds([L4, L4]) == "2 x NVIDIA L4, 24 GB"
    assert count_kinds([L4, "Tesla T4, 16 GB", L4]) == "2 x NVIDIA L4, 24 GB; Tesla T4, 16 GB"
    assert count_kinds(["cpu"]) == "cpu"


def test_another_process_finds_what_this_one_does():
    assert ask(()) == [(f"cuda:{found.index}", found.kind) for found in find_devices()]


def test_a_process_that_cannot_say_is_an_error(monkeypatch):
    monkeypatch.setattr(places.sys, "executable", "false")
    with pytest.raises(ExpertmeshError, match="--device cpu needs none"):
        ask(())


@pytest.mark.parametrize("is_installed", [True, False])
def test_a_driver_is_a_library_that_can_be_loaded(monkeypatch, is_installed):
    def load(name):
        if not is_installed:
            raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(places.ctypes, "CDLL", load)
    monkeypatch.setattr(places, "AMD_DRIVER", Path("/nowhere"))
    monkeypatch.setattr(places.sys, "platform", "linux")
    assert has_driver() == is_installed
