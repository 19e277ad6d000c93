import logging

import pytest
import torch
from pretended_gpus import pretend_gpus

from expertmesh.errors import ConfigError
from expertmesh.model.devices import choose_device

FOUND = r"torch finds cuda:0 \(NVIDIA L4, 24 GB\), cuda:1 \(NVIDIA L4, 24 GB\)"


@pytest.mark.parametrize(
    ("gpus", "word", "expected"),
    [
        ((), "auto", "cpu"),
        (("NVIDIA L4", "NVIDIA L4"), "auto", "cuda:0"),
        (("NVIDIA L4", "NVIDIA L4"), "cuda", "cuda:0"),
        (("NVIDIA L4", "NVIDIA L4"), "cuda:1", "cuda:1"),
        (("NVIDIA L4", "NVIDIA L4"), "cpu", "cpu"),
    ],
)
def test_the_device_is_found_or_named(monkeypatch, gpus, word, expected):
    pretend_gpus(monkeypatch, *gpus)
    assert choose_device(word) == torch.device(expected)


@pytest.mark.parametrize(
    ("gpus", "word", "message"),
    [
        (
            ("NVIDIA L4", "NVIDIA L4"),
            "cuda:7",
            f"'cuda:7' is not here: {FOUND}; one that is, auto or cpu would be right",
        ),
        ((), "cuda", "'cuda' is not here: torch .* finds no GPU; one that is, auto or cpu would"),
        ((), "gpu", "'gpu' is unknown; auto, cpu, cuda or cuda:N would be right"),
        ((), "cuda:-1", "'cuda:-1' is unknown; auto"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(monkeypatch, gpus, word, message):
    pretend_gpus(monkeypatch, *gpus)
    with pytest.raises(ConfigError, match=message):
        choose_device(word)


@pytest.mark.parametrize(
    ("gpus", "line"),
    [
        (("Tesla T4",), "device auto is cuda:0: torch finds cuda:0 (Tesla T4, 24 GB)"),
        ((), f"device auto is cpu: torch {torch.__version__} finds no GPU"),
    ],
)
def test_what_was_found_is_logged(monkeypatch, caplog, gpus, line):
    pretend_gpus(monkeypatch, *gpus)
    with caplog.at_level(logging.INFO):
        choose_device("auto")
    assert [record.getMessage() for record in caplog.records] == [line]
