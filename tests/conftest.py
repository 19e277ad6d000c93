"""Fixtures that several folders share: the published tokenizer and small random checkpoints."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import TOKENIZER_FILE, RandomCheckpoint, awq_quantization, write_mixtral

# Small models gain nothing from more, and threads that spin at barriers make tests crawl on a busy machine.
torch.set_num_threads(1)

MakeMixtral = Callable[..., RandomCheckpoint]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that need a CUDA device where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip("needs a CUDA device"))


@pytest.fixture(scope="session")
def tokenizer_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    shutil.copy(TOKENIZER_FILE, directory / "tokenizer.model")
    return directory


@pytest.fixture(scope="session")
def make_mixtral(tmp_path_factory: pytest.TempPathFactory) -> MakeMixtral:
    """Write a random checkpoint: the arguments of ``write_mixtral``, or ``group_size=N`` for AWQ."""

    def make(group_size: int | None = None, **arguments: Any) -> RandomCheckpoint:
        if group_size is not None:
            arguments["quantization"] = awq_quantization(group_size)
        return write_mixtral(tmp_path_factory.mktemp("mixtral"), **arguments)

    return make
