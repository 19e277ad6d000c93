import platform

import pytest

from expertmesh.kernels.native.isa import AUTO, CPU_INFO, NAMES, VARIANTS, choose_variants, names_of, usable_variants

V2 = "sse4_2 popcnt ssse3"
V3 = f"{V2} avx2 fma f16c bmi1 bmi2 movbe abm"
V4 = f"{V3} avx512f avx512bw avx512cd avx512dq avx512vl"
ZEN4 = f"{V4} avx512_vnni avx512_bf16"
AMX = f"{ZEN4} avx_vnni amx_tile amx_int8 amx_bf16"
# Flags of /proc/cpuinfo: variants that run, the best first.
PROCESSORS = {
    "": [],
    V2: [],
    V3.replace("abm", ""): [],
    V3: ["avx2"],
    f"{V3} avx_vnni": ["avx2-vnni", "avx2"],
    f"{V3} avx512f": ["avx2"],
    V4: ["avx512", "avx2"],
    f"{V4} avx512_bf16": ["avx512", "avx2"],
    f"{V4} avx512_vnni": ["avx512-vnni", "avx512", "avx2"],
    ZEN4: ["avx512-bf16", "avx512-vnni", "avx512", "avx2"],
    f"{ZEN4} avx_vnni amx_tile": ["avx512-bf16", "avx512-vnni", "avx512", "avx2-vnni", "avx2"],
    AMX: ["amx", "avx512-bf16", "avx512-vnni", "avx512", "avx2-vnni", "avx2"],
}


@pytest.fixture
def find_usable(tmp_path):
    def find(flags, grants_tiles=True):
        cpu_info = tmp_path / "cpuinfo"
        # Only the first processor counts, and only the line of its flags.
        cpu_info.write_text(f"model name\t: avx2\nflags\t\t: fpu {flags}\nvmx flags\t: ept\n\nflags\t\t: {AMX}\n")
        return usable_variants(cpu_info, lambda: grants_tiles)

    return find


@pytest.mark.parametrize("flags", PROCESSORS)
def test_what_a_processor_can_run_the_best_first(find_usable, flags):
    assert [variant.name for variant in find_usable(flags)] == PROCESSORS[flags]


def test_amx_needs_the_system_to_grant_tiles(find_usable):
    assert find_usable(AMX, grants_tiles=False) == tuple(find_usable(AMX)[1:])


def test_tiles_are_asked_for_only_where_the_processor_has_them(tmp_path):
    (tmp_path / "cpuinfo").write_text(f"flags : {ZEN4}\n")
    usable_variants(tmp_path / "cpuinfo", lambda: pytest.fail("asked"))


def test_where_the_system_tells_no_flags_nothing_is_usable(tmp_path):
    assert usable_variants(tmp_path / "missing") == ()
    (tmp_path / "cpuinfo").write_text("Features\t: fp asimd\n")
    assert usable_variants(tmp_path / "cpuinfo") == ()


@pytest.mark.skipif(platform.machine() != "x86_64" or not CPU_INFO.exists(), reason="needs Linux on x86-64")
def test_this_processor_runs_what_comes_before_its_best():
    found = names_of(usable_variants())
    assert found == NAMES[: len(found)]


def test_auto_is_everything_and_a_name_what_is_compiled_for_it(find_usable):
    usable = find_usable(AMX)
    assert choose_variants(AUTO, usable) == usable
    chosen = {name: [variant.name for variant in choose_variants(name, usable)] for name in NAMES}
    assert chosen == {
        "avx2": ["avx2-vnni", "avx2"],
        "avx512": ["avx512-vnni", "avx512"],
        "avx512-bf16": ["avx512-bf16"],
        "amx": ["amx"],
    }
    assert choose_variants(AUTO, ()) == ()


def test_what_does_not_exist_or_cannot_run_is_refused(find_usable):
    with pytest.raises(ValueError, match="'sse2' is unknown; use one of auto, avx2, avx512, avx512-bf16, amx"):
        choose_variants("sse2", find_usable(AMX))
    with pytest.raises(ValueError, match="amx is not to be had on this machine, which has avx2, avx512"):
        choose_variants("amx", find_usable(V4))
    with pytest.raises(ValueError, match="avx2 is not to be had on this machine, which has none of these"):
        choose_variants("avx2", ())


def test_names_come_once_each_the_least_first():
    assert names_of(VARIANTS) == names_of(VARIANTS[::-1]) == NAMES
    assert names_of(()) == ()


def test_a_better_instruction_set_asks_more_of_the_processor():
    least = [min((v.features for v in VARIANTS if v.isa == name), key=len) for name in NAMES]
    assert all(less < more for less, more in zip(least, least[1:], strict=False))
