"""How tools name the tensors of a family, and which part of a fused one is meant. Knows names, reads nothing.

Alphabet: E experts, D hidden width, F FFN width.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from expertmesh.architectures.tensor_table import Role, Rows, TensorSpec

# Which part of a tensor is wanted, as an index per leading dimension; () = all of it.
Part = tuple[int | slice, ...]
# What formats call the codes of a matrix, behind its name.
CODES = ("qweight", "weight_packed")


@dataclass(frozen=True)
class Location:
    """Where a matrix or a vector lies.

    Its values are ``part`` of the tensor ``prefix + suffix``, or packed in one of ``CODES`` and its companions; then
    turned over if ``is_transposed``; ``has_rotary_pairs`` says that the rows of each head hold rotary pairs side
    by side, where HF holds first all first halves, then all second ones.
    """

    prefix: str
    suffix: str = ".weight"
    part: Part = ()
    is_transposed: bool = False
    has_rotary_pairs: bool = False

    @property
    def name(self) -> str:
        """Name of the tensor with plain values."""
        return self.prefix + self.suffix


@dataclass(frozen=True)
class Place:
    """Where a tool keeps the tensors of one role: a name with {layer} and {expert}, the rest as in ``Location``.

    Where ``part`` finds them in a tensor that several share, its name has no ".weight" behind.
    """

    name: str
    part: Callable[[TensorSpec], Part] | None = None
    is_transposed: bool = False
    has_rotary_pairs: bool = False


Places = Mapping[Role, Place]
AllPlaces = Mapping[Role, tuple[Place, ...]]


@dataclass(frozen=True)
class Dialect:
    """The names that the files of a checkpoint give to all tensors."""

    places: Places

    def locate(self, spec: TensorSpec) -> Location:
        """Tell where a tensor lies."""
        place = self.places[spec.role]
        return Location(
            prefix=place.name.format(layer=spec.layer, expert=spec.expert),
            suffix=".weight" if place.part is None else "",
            part=() if place.part is None else place.part(spec),
            is_transposed=place.is_transposed,
            has_rotary_pairs=place.has_rotary_pairs,
        )


def choose_places(places: AllPlaces, names: Collection[str]) -> Dialect:
    """Take for each role the first place that is among ``names``, or the very first: tools may be mixed."""
    return Dialect(
        {role: next((one for one in of_role if _is_in(one, names)), of_role[0]) for role, of_role in places.items()}
    )


def is_any_in(places: AllPlaces, names: Collection[str]) -> bool:
    """Tell whether a tensor of any role is among ``names``."""
    return any(_is_in(place, names) for of_role in places.values() for place in of_role)


def _is_in(place: Place, names: Collection[str]) -> bool:
    prefix = place.name.format(layer=0, expert=0)
    suffixes = (".weight", *(f".{codes}" for codes in CODES)) if place.part is None else ("",)
    return any(prefix + suffix in names for suffix in suffixes)


def all_places(*tools: Places) -> AllPlaces:
    """Gather where ``tools`` keep the tensors of each role; later ones may say nothing of some."""
    return {role: tuple(dict.fromkeys(tool[role] for tool in tools if role in tool)) for role in tools[0]}


def hf_places(rows: Rows) -> Places:
    """Return the places of HF's own names."""
    return {role: Place(row.name) for role, row in rows.items()}


def one_expert(spec: TensorSpec) -> Part:
    """Find an expert in [E, ...]."""
    return (_expert(spec),)


def gate_half(spec: TensorSpec) -> Part:
    """Find the gate projection of an expert in [E, 2 F, D]."""
    return (_expert(spec), slice(0, spec.shape[0]))


def up_half(spec: TensorSpec) -> Part:
    """Find the up projection of an expert in [E, 2 F, D]."""
    return (_expert(spec), slice(spec.shape[0], 2 * spec.shape[0]))


def expert_rows(spec: TensorSpec) -> Part:
    """Find an expert in [E F, D], also where its matrix [D, F] is turned over there."""
    width = spec.shape[1] if spec.role == "w_down" else spec.shape[0]
    return (slice(_expert(spec) * width, (_expert(spec) + 1) * width),)


def _expert(spec: TensorSpec) -> int:
    assert spec.expert is not None
    return spec.expert
