"""Sampling parameters as fields of requests. Knows pydantic and the table of parameters, no API."""

from collections.abc import Container
from typing import Any

from pydantic import BaseModel, Field

from expertmesh.model.sampling import PARAMETERS


def parameter(name: str, text: str | None = None, **other: Any) -> Any:
    """Make the field for a sampling parameter, which may be left out; ``text`` and ``other`` replace what it says."""
    known = PARAMETERS[name]
    return Field(default=None, description=text or known.text, **{**known.bounds, **other})


def given(body: BaseModel, but: Container[str] = ()) -> dict[str, Any]:
    """Return the parameters that a request sets by their own names."""
    names = (name for name in type(body).model_fields if name in PARAMETERS and name not in but)
    return {name: value for name in names if (value := getattr(body, name)) is not None}
