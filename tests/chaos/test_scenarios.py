"""Every scenario on every transport, shorter than ``make chaos`` has them."""

import chaos
import pytest


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("transport", chaos.TRANSPORTS)
def test_nothing_fails_and_nothing_differs(transport):
    chaos.main(["--transport", transport, "--seconds", "5"])
