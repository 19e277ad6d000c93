"""What a family of models has to say about itself."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from expertmesh.architectures.dialects import AllPlaces, Dialect, choose_places, is_any_in
from expertmesh.architectures.key_rules import KeyRules
from expertmesh.architectures.keys import Keys
from expertmesh.architectures.model_config import ModelConfig
from expertmesh.architectures.tensor_table import Rows
from expertmesh.errors import CheckpointError


@dataclass(frozen=True)
class Architecture:
    """A family: its name under ``architectures`` in config.json, how that file is read, and which tensors there are.

    ``keys`` says what becomes of each key of that file, ``defaults`` what those mean that it leaves out.
    ``tensors`` goes by HF's names; ``places`` are all names that tools use for each role, HF's first.
    """

    name: str
    model_type: str
    keys: KeyRules
    defaults: Mapping[str, Any]
    read_config: Callable[[Keys], ModelConfig]
    tensors: Rows
    places: AllPlaces

    def recognize(self, names: Iterable[str]) -> Dialect:
        """Find the dialect in which the tensors ``names`` are; CheckpointError shows some where it is unknown."""
        names = set(names)
        if is_any_in(self.places, names):
            return choose_places(self.places, names)
        shown = ", ".join(sorted(names)[:3]) or "none at all"
        raise CheckpointError(f"tensor names like {shown} are not those of {self.name}")
