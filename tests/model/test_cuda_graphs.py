"""What can be said of CUDA graphs without a GPU."""

import pytest
import torch

from expertmesh.errors import ConfigError
from expertmesh.model.cuda_graphs import needing_memory


def test_too_little_memory_has_a_remedy():
    message = "no memory is left to record CUDA graphs: tried 2 GiB; a smaller cache would be right"
    with pytest.raises(ConfigError, match=message), needing_memory("a smaller cache"):
        raise torch.OutOfMemoryError("tried 2 GiB")


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="capture") as raised, needing_memory("a smaller cache"):
        raise RuntimeError("capture")
    assert raised.type is RuntimeError
