import logging

import pytest
import torch
from pretended_gpus import pretend_gpus

from expertmesh.errors import ConfigError
from expertmesh.kernels.cpu import CpuBackend
from expertmesh.kernels.native.library import load_default
from expertmesh.kernels.reference import ReferenceBackend
from expertmesh.model.backends import log_backend, open_backend


@pytest.fixture
def tell(caplog):
    """Log a backend; returns the level and the text of the one line."""

    def log(backend):
        with caplog.at_level(logging.INFO):
            caplog.clear()
            log_backend(backend)
        [record] = caplog.records
        return record.levelname, record.getMessage()

    return log


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("cuda", "cpu"), "cannot run backend 'cuda' on device 'cpu': backend 'cuda' is unknown"),
        (("cpu", "abacus"), "device 'abacus' is unknown"),
        (("triton", "auto"), "cannot run backend 'triton' on device 'cpu': backend triton cannot run on cpu"),
        (("cpu", "meta"), "backend cpu cannot run on meta"),
        (("cpu", "cpu", "sse2"), "instruction set 'sse2' is unknown"),
        (("reference", "cpu", "avx2"), "backend reference has no choice of instruction sets"),
    ],
)
def test_words_that_are_wrong_or_do_not_go_together_are_named(arguments, words):
    with pytest.raises(ConfigError, match=words):
        open_backend(*arguments)


@pytest.mark.parametrize("name", ["cpu", "cpu-a8"])
def test_a_backend_of_cpus_runs_there_whatever_else_is_found(monkeypatch, name):
    pretend_gpus(monkeypatch, "NVIDIA L4")
    assert open_backend(name, "auto").device.type == "cpu"
    with pytest.raises(ConfigError, match=f"backend {name} cannot run on cuda:0"):
        open_backend(name, "cuda")


@pytest.mark.skipif(load_default() is None, reason="needs the C kernels")
def test_the_c_kernels_are_told_with_their_instruction_set(tell):
    backend = open_backend("cpu", "cpu", "avx2")
    assert tell(backend) == ("INFO", "backend cpu on cpu, instruction set avx2, deterministic: yes")


def test_missing_c_kernels_are_a_warning_that_says_what_follows_and_what_helps(tell):
    level, text = tell(CpuBackend(is_native=False))
    assert level == "WARNING"
    assert text.startswith("backend cpu on cpu, deterministic: no, a row's last bits depend")
    assert "install a C compiler or the libraries compiled ahead" in text


def test_what_cannot_be_mended_is_no_warning(tell):
    level, text = tell(ReferenceBackend(torch.device("cpu")))
    assert (level, "deterministic: no" in text, "install" in text) == ("INFO", True, False)
