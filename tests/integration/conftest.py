from collections.abc import Callable, Iterator
from typing import Any

import pytest
from isas import ISAS


@pytest.fixture
def prompts() -> list[list[int]]:
    """Sixteen prompts of ids below 512 and of different lengths."""
    return [[1, *((7 * i + 13 * j) % 500 + 3 for j in range(3 + 2 * i))] for i in range(16)]


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    """Each instruction set of this machine; activations are of the type that suits it."""
    return str(request.param)


@pytest.fixture(scope="module")
def client(served: Any) -> Iterator[Any]:
    """OpenAI's client of the mesh that a module has ``served``."""
    import openai

    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium, for modules that are skipped where there is none."""
    from browsing import launched

    with launched() as browser:
        yield browser


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open pages by their URL, each for itself."""
    from browsing import opening

    with opening(browser) as open_at:
        yield open_at
