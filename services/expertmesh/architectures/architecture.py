"""What a family of models has to say about itself."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from expertmesh.architectures.dialects import Dialect
from expertmesh.architectures.key_rules import KeyRules
from expertmesh.architectures.keys import Keys
from expertmesh.architectures.model_config import ModelConfig
from expertmesh.architectures.tensor_table import Rows
from expertmesh.errors import CheckpointError


@dataclass(frozen=True)
class Architecture:
    """A family: its name under ``architectures`` in config.json, how that file is read, and which tensors there are.

    ``keys`` says what becomes of each key of that file, ``defaults`` what those mean that it leaves out.
    ``tensors`` goes by HF's names; ``dialects`` are all names that tools use, the more special before those whose
    markers begin like theirs.
    """

    name: str
    model_type: str
    keys: KeyRules
    defaults: Mapping[str, Any]
    read_config: Callable[[Keys], ModelConfig]
    tensors: Rows
    dialects: tuple[Dialect, ...]

    def recognize(self, names: Iterable[str]) -> Dialect:
        """Find the dialect in which the tensors ``names`` are; CheckpointError shows some where it is unknown."""
        names = list(names)
        for dialect in self.dialects:
            if any(name.startswith(dialect.marker) for name in names):
                return dialect
        shown = ", ".join(sorted(names)[:3]) or "none at all"
        raise CheckpointError(f"tensor names like {shown} are not those of {self.name}")
