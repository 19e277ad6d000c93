from dataclasses import dataclass, field
from pathlib import Path

import pytest

from expertmesh.errors import ConfigError
from expertmesh.expert.config import ExpertServerConfig
from expertmesh.gateway.config import GatewayConfig
from expertmesh.settings.flags import REQUIRED, Flag, fill, flagged, flags_of, nested, setting


@dataclass(frozen=True)
class Inner:
    size_bytes: int = setting(2048, Flag("P", "SIZE_KIB", "Size.", unit=1024))
    limit_bytes: int | None = setting(None, Flag("P", "LIMIT_KIB", "Limit.", unit=1024))
    share: float = setting(0.5, Flag("P", "SHARE", "Share."))


@dataclass(frozen=True)
class Outer:
    path: Path = field(metadata=flagged(Flag("P", "PATH", "Path.")))
    bits: int | None = setting(None, Flag("P", "ROUND", "Bits.", words={"none": None, "int8": 8}))
    names: tuple[str, ...] = setting((), Flag("P", "NAME", "Names."))
    address: str | None = setting("a:1", Flag("P", "ADDRESS", "Address."))
    reuses: bool = setting(True, Flag("P", "NO_REUSE", "Reuse nothing.", negates=True))
    made: int = setting(0, Flag("P", "MADE_OF", "Text.", name="made", kind=str, default="0"))
    inner: Inner = nested(Inner, share=0.1)
    other: int = 7


def test_a_flag_has_the_name_the_type_and_the_default_of_a_command_line():
    assert {name: (flag.kind, flag.default) for name, flag in flags_of(Outer).items()} == {
        "path": (Path, REQUIRED),
        "round": (str, "none"),
        "name": (list[str] | None, None),
        "address": (str | None, "a:1"),
        "no_reuse": (bool, False),
        "made": (str, "0"),
        "size_kib": (float, 2.0),
        "limit_kib": (float | None, None),
    }


def test_values_of_flags_fill_the_fields():
    values = {"path": Path("x"), "round": "int8", "name": ["a", "b"], "address": "", "no_reuse": True, "limit_kib": 0.5}
    assert fill(Outer, values, made=3) == Outer(
        Path("x"), 8, ("a", "b"), None, False, 3, Inner(limit_bytes=512, share=0.1)
    )


def test_what_is_fixed_has_no_flag():
    assert fill(Outer, {"path": Path(), "share": 0.9}).inner.share == 0.1
    assert fill(Inner, {"share": 0.9}).share == 0.9


def test_an_unknown_word_is_named():
    with pytest.raises(ConfigError, match="--round is 'int3'; one of none, int8 would be right"):
        fill(Outer, {"path": Path(), "round": "int3"})


@pytest.mark.parametrize("settings", [GatewayConfig, ExpertServerConfig])
def test_a_command_line_without_flags_gives_the_defaults(settings):
    flags = flags_of(settings)
    values = {name: flag.default for name, flag in flags.items()} | {"model": Path("x")}
    assert fill(settings, values) == settings(Path("x"))
