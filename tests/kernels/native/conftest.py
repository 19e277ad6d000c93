"""The C kernels of every instruction set."""

import pytest
from isas import ISAS_AND_EMULATED, open_library

from expertmesh.kernels.native.library import Library


@pytest.fixture(scope="session", params=ISAS_AND_EMULATED)
def library(request: pytest.FixtureRequest) -> Library:
    return open_library(request.param)
