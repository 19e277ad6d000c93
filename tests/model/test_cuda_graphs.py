"""What can be said of CUDA graphs without a GPU."""

import re

import pytest
import torch

from expertmesh.errors import ConfigError
from expertmesh.model.cuda_graphs import needing_memory


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("tried 2 GiB"),
        torch.AcceleratorError("CUDA error: out of memory"),  # the driver's, of graphs
        RuntimeError("Triton Error [CUDA]: out of memory"),  # of kernels that are loaded
    ],
    ids=repr,
)
def test_too_little_memory_has_a_remedy(error):
    message = f"no memory is left to record CUDA graphs: {re.escape(str(error))}; a smaller cache would be right"
    with pytest.raises(ConfigError, match=message), needing_memory("a smaller cache"):
        raise error


def test_too_little_memory_has_a_remedy_also_where_the_end_of_the_capture_hides_it():
    with pytest.raises(ConfigError, match="graphs: tried 2 GiB; a smaller cache"), needing_memory("a smaller cache"):
        try:
            raise torch.OutOfMemoryError("tried 2 GiB")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="capture") as raised, needing_memory("a smaller cache"):
        raise RuntimeError("capture")
    assert raised.type is RuntimeError
