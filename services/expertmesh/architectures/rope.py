"""Rotary embedding, as configurations describe it: how fast features turn, and how that is stretched for long texts.

Knows numbers and keys, computes nothing.
"""

import math
from dataclasses import dataclass

from expertmesh.architectures.keys import Keys

# Keys that every kind has, and those of each kind beside them.
COMMON = ("rope_type", "type", "rope_theta")
KINDS = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": (
        "factor",
        "original_max_position_embeddings",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
        # Of the first models with it: that they were trained so, which changes nothing.
        "finetuned",
    ),
}
ORIGINAL = "original_max_position_embeddings"


@dataclass(frozen=True)
class Yarn:
    """YaRN (arXiv 2309.00071): features that turn slowly are slowed down ``factor`` times more, fast ones are not.

    Features that turn ``beta_fast`` times or more within ``original_positions`` count as fast, ``beta_slow`` times or
    less as slow; ``is_rounded`` moves these two bounds outwards to whole features. Sines and cosines are multiplied by
    ``attention_factor``.
    """

    factor: float
    original_positions: int
    beta_fast: float
    beta_slow: float
    is_rounded: bool
    attention_factor: float


@dataclass(frozen=True)
class Rope:
    """Feature pair i of d / 2 turns by position / ``stretch`` * ``theta`` ** (-2 i / d), unless ``yarn`` slows it."""

    theta: float
    stretch: float = 1.0
    yarn: Yarn | None = None


def read_rope(keys: Keys, max_positions: int) -> Rope:
    """Read the rotary embedding where older or newer files keep it.

    ``dynamic`` is plain up to ``max_positions``, and nothing longer is served: beyond, a row would depend on the
    longest one that was ever beside it.
    """
    rope = keys.section("rope_parameters", "rope_scaling")
    kind = _read_kind(rope)
    theta = (rope if "rope_theta" in rope else keys).number("rope_theta", above=1)
    if kind != "default":
        factor = rope.number("factor")
    if kind == "yarn":
        return Rope(theta, yarn=_read_yarn(rope, factor, _read_original(keys, rope, max_positions)))
    return Rope(theta, stretch=factor if kind == "linear" else 1.0)


def _read_kind(rope: Keys) -> str:
    key = rope.one_of("rope_type", "type")
    kind = rope.word(key, "default")
    if kind not in KINDS:
        raise rope.unsupported(key, "", ", ".join(KINDS))
    for other in rope:
        if other not in (*COMMON, *KINDS[kind]):
            raise rope.unsupported(other, f"{kind} has no such key", ", ".join((*COMMON, *KINDS[kind])))
    return kind


def _read_original(keys: Keys, rope: Keys, max_positions: int) -> int:
    """Read how many positions the model was first trained on; outside the section it counts more than inside."""
    return (keys if ORIGINAL in keys else rope).count(ORIGINAL, max_positions)


def _read_yarn(rope: Keys, factor: float, original_positions: int) -> Yarn:
    return Yarn(
        factor=factor,
        original_positions=original_positions,
        beta_fast=rope.number("beta_fast", 32),
        beta_slow=rope.number("beta_slow", 1),
        is_rounded=rope.flag("truncate", True),
        attention_factor=rope.number("attention_factor", _attention_factor(rope, factor)),
    )


def _attention_factor(rope: Keys, factor: float) -> float:
    """Return what the paper suggests, or the ratio that ``mscale`` and ``mscale_all_dim`` make."""
    if "mscale" in rope and "mscale_all_dim" not in rope:
        raise rope.wrong("mscale", "both it and mscale_all_dim, or neither,")
    if "mscale_all_dim" in rope and "mscale" not in rope:
        raise rope.wrong("mscale_all_dim", "both it and mscale, or neither,")
    if "mscale" in rope:
        return _magnitude(factor, rope.number("mscale")) / _magnitude(factor, rope.number("mscale_all_dim"))
    return _magnitude(factor, 1.0)


def _magnitude(factor: float, weight: float) -> float:
    return 0.1 * weight * math.log(max(factor, 1.0)) + 1.0
