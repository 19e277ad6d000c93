import json

import pytest
from checkpoints import packed_quantization, several_groups
from number_formats import compressed_floats, compressed_integers, four_bit, fp8, llm_int8
from transformers import AutoRoundConfig as theirs_of_auto_round
from transformers import AwqConfig as theirs_of_awq
from transformers import BitsAndBytesConfig, FineGrainedFP8Config
from transformers import GPTQConfig as theirs_of_gptq
from transformers.utils.quantization_config import QuantizationMethod

from expertmesh.checkpoint import auto_round, layouts
from expertmesh.checkpoint import bitsandbytes as bnb
from expertmesh.checkpoint import fp8 as fp8_parser
from expertmesh.checkpoint.codes import (
    SUPPORTED,
    AwqConfig,
    FourBitConfig,
    GptqConfig,
    MixedConfig,
    PackQuantizedConfig,
    ScaledConfig,
)
from expertmesh.checkpoint.quantization import AWQ_KEYS, GPTQ_KEYS, OTHER_METHODS, read_quantization
from expertmesh.errors import CheckpointError
from expertmesh.kernels.formats import Block, GptqFormat

AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}


def test_no_section_and_no_file_is_no_quantization(tmp_path):
    assert read_quantization(tmp_path, {}) is None
    assert read_quantization(tmp_path, {"quantization_config": None}) is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, AwqConfig(128, True)),
        ({"quant_method": "AWQ", "version": "GEMM"}, AwqConfig(128, True)),
        ({"version": None}, AwqConfig(128, True)),
        ({"version": "GEMM", "format": "gemm"}, AwqConfig(128, True)),
        ({"group_size": -1}, AwqConfig(-1, True)),
        ({"group_size": 32, "modules_to_not_convert": ["gate"]}, AwqConfig(32, True)),
    ],
)
def test_awq_in_config_json(tmp_path, changes, expected):
    assert read_quantization(tmp_path, {"quantization_config": {**AWQ, **changes}}) == expected


def test_awq_in_its_own_file_with_its_own_words(tmp_path):
    section = {"zero_point": True, "q_group_size": 64, "w_bit": 4, "version": "GEMM"}
    (tmp_path / "quant_config.json").write_text(json.dumps(section))
    assert read_quantization(tmp_path, {}) == AwqConfig(64, True)
    assert read_quantization(tmp_path, {"quantization_config": AWQ}) == AwqConfig(128, True)


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True, "sym": True}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, GptqConfig(GptqFormat(4, True), 128, True)),
        ({"checkpoint_format": "gptq", "group_size": -1}, GptqConfig(GptqFormat(4, True), -1, True)),
        ({"checkpoint_format": "gptq_v2", "sym": False}, GptqConfig(GptqFormat(4, False, is_v2=True), 128, True)),
        ({"format": "gptq_v2"}, GptqConfig(GptqFormat(4, True, is_v2=True), 128, True)),
        ({"format": "GPTQ", "checkpoint_format": "gptq"}, GptqConfig(GptqFormat(4, True), 128, True)),
        ({"bits": 3, "desc_act": False, "damp_percent": 0.1}, GptqConfig(GptqFormat(3, True), 128, False)),
        ({"dynamic": {"-:.*gate.*": {}, "+:.*w1": {"bits": 4}}}, GptqConfig(GptqFormat(4, True), 128, True)),
        (
            {"dynamic": {"+:.*w1": {"bits": 8, "group_size": 32, "desc_act": True, "sym": True}, "w2": {"bits": 2}}},
            MixedConfig(
                (
                    GptqConfig(GptqFormat(4, True), 128, True),
                    GptqConfig(GptqFormat(8, True), 32, True),
                    GptqConfig(GptqFormat(2, True), 128, True),
                )
            ),
        ),
    ],
)
def test_gptq_in_either_file(tmp_path, changes, expected):
    section = {**GPTQ, **changes}
    assert read_quantization(tmp_path, {"quantization_config": section}) == expected
    (tmp_path / "quantize_config.json").write_text(
        json.dumps({k: v for k, v in section.items() if k != "quant_method"})
    )
    assert read_quantization(tmp_path, {}) == expected


AUTO_ROUND = {
    "quant_method": "auto-round",
    "packing_format": "auto_round:auto_gptq",
    "bits": 4,
    "group_size": 32,
    "sym": True,
    "extra_config": {".*gate.*": {"bits": 16, "data_type": "float"}},
}
EIGHT = {"extra_config": {"o_proj": {"bits": 8}, "w2": {"bits": 8}}}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, GptqConfig(GptqFormat(4, True), 32, False)),
        ({"bits": 3, "sym": False}, GptqConfig(GptqFormat(3, False), 32, False)),
        ({"packing_format": "auto_round:gptqmodel"}, GptqConfig(GptqFormat(4, True, is_v2=True), 32, False)),
        ({"packing_format": "auto_round", "sym": False}, GptqConfig(GptqFormat(4, False, is_v2=True), 32, False)),
        ({"packing_format": "auto_round:auto_awq", "group_size": -1}, AwqConfig(-1, True)),
        (EIGHT, MixedConfig(tuple(GptqConfig(GptqFormat(bits, True), 32, False) for bits in (4, 8)))),
        (
            {"extra_config": {"w2": {"sym": False, "group_size": 64}}},
            MixedConfig(tuple(GptqConfig(GptqFormat(4, False), size, False) for size in (32, 64))),
        ),
        (
            {"packing_format": "auto_round:auto_awq", "extra_config": {"w2": {"group_size": 64}}},
            MixedConfig((AwqConfig(32, True), AwqConfig(64, True))),
        ),
    ],
)
def test_auto_round_in_config_json(tmp_path, changes, expected):
    assert read_quantization(tmp_path, {"quantization_config": {**AUTO_ROUND, **changes}}) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"packing_format": "auto_round:fp8"},
            "packing_format 'auto_round:fp8' is not supported; supported: auto_round:auto_a",
        ),
        ({"packing_format": None}, "packing_format None is not supported"),
        ({"bits": 5}, "bits 5 is not supported; supported: 2, 3, 4, 8"),
        (
            {"packing_format": "auto_round:auto_awq", **EIGHT},
            "extra_config.o_proj.bits 8 is not supported; supported: 4",
        ),
        (
            {"extra_config": {"model.layers.0.w2": {"bits": 6}}},
            "extra_config.model.layers.0.w2.bits 6 is not supported",
        ),
        (
            {"extra_config": {"w2": {"data_type": "mx_fp"}}},
            "extra_config.w2.data_type 'mx_fp' is not supported; supported: int",
        ),
        ({"data_type": "nv_fp"}, "data_type 'nv_fp' is not supported; supported: int"),
        ({"act_bits": 8}, "act_bits 8 is not supported"),
        ({"static_kv_dtype": "fp8"}, "static_kv_dtype 'fp8' is not supported"),
        ({"rotation_config": {"a": 1}}, "rotation_config {'a': 1} is not supported .weights are not rotated"),
    ],
)
def test_what_is_not_read_of_auto_round_is_refused_by_its_name(tmp_path, changes, message):
    with pytest.raises(CheckpointError, match=f"config.json: quantization_config.{message}"):
        read_quantization(tmp_path, {"quantization_config": {**AUTO_ROUND, **changes}})


PACKED = packed_quantization(4, 32).config
FLOATS, INTEGERS = compressed_floats().config, compressed_integers().config
NOT_READ = ("nvfp4-pack-quantized", "mxfp4-pack-quantized", "mxfp8-quantized", "marlin-24", "sparse-24-bitmask")


def changed(value: object, path: str, change: object) -> dict:
    """Return ``value`` with ``change`` under the keys of ``path``, which dots separate."""
    key, _, rest = path.partition(".")
    return {**value, key: changed(value[key], rest, change) if rest else change}


WEIGHTS = "config_groups.group_0.weights"


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        (PACKED, PackQuantizedConfig(4, 32, False, False)),
        (packed_quantization(8, -1, False).config, PackQuantizedConfig(8, -1, True, False)),
        (changed(PACKED, f"{WEIGHTS}.actorder", "group"), PackQuantizedConfig(4, 32, False, True)),
        (changed(PACKED, f"{WEIGHTS}.actorder", True), PackQuantizedConfig(4, 32, False, True)),
        (changed(PACKED, f"{WEIGHTS}.actorder", "static"), PackQuantizedConfig(4, 32, False, False)),
        (changed(PACKED, f"{WEIGHTS}.strategy", None), PackQuantizedConfig(4, 32, False, False)),
        (changed(PACKED, "sparsity_config", {"format": "dense"}), PackQuantizedConfig(4, 32, False, False)),
        (
            changed(PACKED, "config_groups.group_1", PACKED["config_groups"]["group_0"]),
            PackQuantizedConfig(4, 32, False, False),
        ),
        (
            several_groups(packed_quantization(4, 32), {"v": packed_quantization(8, 32, False)}).config,
            MixedConfig((PackQuantizedConfig(8, 32, True, False), PackQuantizedConfig(4, 32, False, False))),
        ),
    ],
)
def test_compressed_tensors_in_config_json(tmp_path, section, expected):
    assert read_quantization(tmp_path, {"quantization_config": section}) == expected


def floats_of(*block: int) -> ScaledConfig:
    return ScaledConfig("compressed-tensors fp8", layouts.SCALED_LAYOUT, "F8_E4M3", Block(*block))


def integers_of(*block: int, bits: int = 8, has_zero_points: bool = False) -> ScaledConfig:
    name = f"compressed-tensors int{bits}"
    return ScaledConfig(name, layouts.SCALED_LAYOUT, "I8", Block(*block), has_zero_points)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        (FLOATS, floats_of(1, -1)),
        (compressed_floats((-1, -1), input_scale=True).config, floats_of(-1, -1)),
        (compressed_floats((128, 128)).config, floats_of(128, 128)),
        (changed(FLOATS, f"{WEIGHTS}.strategy", None), floats_of(-1, -1)),
        (changed(changed(FLOATS, "format", "mixed-precision"), "ignore", []), floats_of(1, -1)),
        (compressed_integers(name="naive-quantized").config, integers_of(1, -1)),
        (compressed_integers((1, 32), symmetric=False).config, integers_of(1, 32, has_zero_points=True)),
        (changed(INTEGERS, f"{WEIGHTS}.num_bits", 4), integers_of(1, -1, bits=4)),
        (
            changed(FLOATS, "config_groups.group_1", PACKED["config_groups"]["group_0"] | {"format": "pack-quantized"}),
            MixedConfig((floats_of(1, -1), PackQuantizedConfig(4, 32, False, False))),
        ),
    ],
)
def test_compressed_tensors_that_are_not_packed(tmp_path, section, expected):
    assert read_quantization(tmp_path, {"quantization_config": section}) == expected


@pytest.mark.parametrize(
    ("section", "path", "value", "message"),
    [
        (
            FLOATS,
            f"{WEIGHTS}.type",
            "int",
            f"{WEIGHTS}.type 'int' is not supported .float-quantized.; supported: float",
        ),
        (FLOATS, f"{WEIGHTS}.num_bits", 4, f"{WEIGHTS}.num_bits 4 is not supported; supported: 8"),
        (FLOATS, f"{WEIGHTS}.symmetric", False, f"{WEIGHTS}.symmetric False is not supported .floating-point numbers"),
        (FLOATS, f"{WEIGHTS}.strategy", "token", f"{WEIGHTS}.strategy 'token' is not supported; supported: group or"),
        (FLOATS, f"{WEIGHTS}.strategy", "block", f"{WEIGHTS}.block_structure is None; two positive integers, outputs"),
        (
            INTEGERS,
            f"{WEIGHTS}.actorder",
            "group",
            f"{WEIGHTS}.actorder 'group' is not supported .int-quantized has no",
        ),
        (INTEGERS, f"{WEIGHTS}.num_bits", 16, f"{WEIGHTS}.num_bits 16 is not supported; supported: 8"),
    ],
)
def test_what_is_not_read_of_numbers_is_refused_by_its_name(tmp_path, section, path, value, message):
    with pytest.raises(CheckpointError, match=f"config.json: quantization_config.{message}"):
        read_quantization(tmp_path, {"quantization_config": changed(section, path, value)})


FP8 = fp8().config
FP8_LAYOUTS = (layouts.SCALED_INVERSELY_LAYOUT, layouts.SCALED_LAYOUT)
BLOCKS = {**FP8, "weight_block_size": [128, 64]}


@pytest.mark.parametrize(("section", "block"), [(FP8, Block(-1, -1)), (BLOCKS, Block(128, 64))])
def test_fp8_has_scales_of_either_name(tmp_path, section, block):
    kinds = [ScaledConfig("fp8", each, "F8_E4M3", block) for each in FP8_LAYOUTS]
    assert read_quantization(tmp_path, {"quantization_config": section}) == MixedConfig(tuple(kinds))


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        (four_bit("nf4", is_nested=True).config, FourBitConfig("nf4")),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, FourBitConfig("fp4")),
        ({"load_in_8bit": True}, ScaledConfig("bitsandbytes int8", layouts.LLM_INT8_LAYOUT, "I8", Block(1, -1))),
        ({"_load_in_4bit": True, "load_in_4bit": True, "bnb_4bit_quant_type": "NF4"}, FourBitConfig("nf4")),
        (llm_int8().config, ScaledConfig("bitsandbytes int8", layouts.LLM_INT8_LAYOUT, "I8", Block(1, -1))),
    ],
)
def test_bitsandbytes_in_config_json(tmp_path, section, expected):
    assert read_quantization(tmp_path, {"quantization_config": section}) == expected


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {**FP8, "weight_block_size": [128]},
            r"weight_block_size is \[128\]; two positive integers, outputs and inputs",
        ),
        ({**FP8, "weight_block_size": [0, 128]}, r"weight_block_size is \[0, 128\]; two positive"),
        ({**FP8, "scale_fmt": "ue8m0"}, "scale_fmt 'ue8m0' is not supported; supported: float"),
        ({**FP8, "fmt": "e5m2"}, "fmt 'e5m2' is not supported; supported: e4m3"),
        ({**FP8, "expert_dtype": "fp4"}, "expert_dtype 'fp4' is not supported; supported: fp8"),
        ({**llm_int8().config, "load_in_4bit": True}, "load_in_4bit is True; true where .*load_in_8bit is not"),
        ({**four_bit().config, "load_in_4bit": False}, "load_in_4bit is False; true where .*load_in_8bit is not"),
        (
            {**four_bit().config, "bnb_4bit_quant_type": "af4"},
            "bnb_4bit_quant_type 'af4' is not supported; supported: n",
        ),
    ],
)
def test_what_is_not_read_of_fp8_and_bitsandbytes_is_refused_by_its_name(tmp_path, section, message):
    with pytest.raises(CheckpointError, match=f"config.json: quantization_config.{message}"):
        read_quantization(tmp_path, {"quantization_config": section})


@pytest.mark.parametrize(
    ("section", "key"),
    [
        (FP8, "activation_scheme"),
        ({**FP8, "kv_cache_scheme": "static"}, "kv_cache_scheme"),
        (INTEGERS, "config_groups.group_0.input_activations"),
        ({**FLOATS, "kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme"),
    ],
)
def test_what_is_not_done_is_logged(tmp_path, caplog, section, key):
    read_quantization(tmp_path, {"quantization_config": section})
    assert f"config.json: quantization_config.{key}: not done: " in caplog.text


@pytest.mark.parametrize(
    ("theirs", "rules"), [(FineGrainedFP8Config(), fp8_parser.KEYS), (BitsAndBytesConfig(load_in_8bit=True), bnb.KEYS)]
)
def test_transformers_writes_no_key_of_these_without_a_rule(theirs, rules):
    assert set(theirs.to_dict()) - {key for rule in rules for key in rule.keys} == set()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        *((("format", name, f"format '{name}' is not supported; supported: pack-quantized or")) for name in NOT_READ),
        (
            "format",
            "mixed-precision",
            "config_groups.group_0.format is None; pack-quantized or float-quantized or .* wo",
        ),
        ("sparsity_config", {"format": "sparse-24"}, "sparsity_config.format 'sparse-24' is not supported"),
        ("transform_config", {"config_groups": {}}, "transform_config {.*} is not supported .weights are not rotated"),
        ("config_groups", {}, "config_groups is {}; an object that says how weights are quantized would"),
        ("config_groups", {"W4A16": ["Linear"]}, r"config_groups.W4A16 is \['Linear'\]; an object would be right"),
        ("config_groups.group_0.weights", None, "config_groups.group_0.weights.num_bits is None; a positive integer"),
        (
            "config_groups.group_0.format",
            "nvfp4-pack-quantized",
            "config_groups.group_0.format 'nvfp4-pack-quantized' is",
        ),
        (f"{WEIGHTS}.num_bits", 3, "quantization compressed-tensors 3-bit is not supported; supported: awq"),
        (f"{WEIGHTS}.type", "float", f"{WEIGHTS}.type 'float' is not supported .pack-quantized.; supported: int"),
        (f"{WEIGHTS}.strategy", "tensor", f"{WEIGHTS}.strategy 'tensor' is not supported; supported: group or channel"),
        (f"{WEIGHTS}.group_size", None, f"{WEIGHTS}.group_size is None; a positive integer would be right"),
        (
            f"{WEIGHTS}.actorder",
            "other",
            f"{WEIGHTS}.actorder 'other' is not supported; supported: weight or static or",
        ),
        (f"{WEIGHTS}.block_structure", [128, 128], rf"{WEIGHTS}.block_structure \[128, 128\] is not supported"),
    ],
)
def test_what_is_not_read_of_compressed_tensors_is_refused_by_its_name(tmp_path, path, value, message):
    with pytest.raises(CheckpointError, match=f"config.json: (quantization_config.)?{message}"):
        read_quantization(tmp_path, {"quantization_config": changed(PACKED, path, value)})


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (AwqConfig(128, True), "awq 4-bit g128"),
        (GptqConfig(GptqFormat(3, True), -1, False), "gptq 3-bit no groups"),
        (GptqConfig(GptqFormat(8, False), 32, True), "gptq 8-bit g32 act-order"),
        (PackQuantizedConfig(4, 32, True, True), "compressed-tensors 4-bit g32 act-order"),
        (floats_of(1, -1), "compressed-tensors fp8 per channel"),
        (integers_of(1, 32), "compressed-tensors int8 g32"),
        (MixedConfig((floats_of(-1, -1),) * 2), "compressed-tensors fp8 per tensor"),
        (floats_of(128, 64), "compressed-tensors fp8 blocks of 128x64"),
        (FourBitConfig("nf4"), "bitsandbytes nf4"),
        (
            MixedConfig((PackQuantizedConfig(8, -1, True, False), PackQuantizedConfig(4, 32, True, False))),
            "compressed-tensors 8-bit no groups and compressed-tensors 4-bit g32",
        ),
    ],
)
def test_they_describe_themselves(config, words):
    assert str(config) == words


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {**AWQ, "quant_method": None},
            "quantization_config.quant_method is None; awq, gptq, auto-round, bitsandbytes, compressed-tensors, fp8 ",
        ),
        ({**AWQ, "quant_method": 4}, "quantization_config.quant_method is 4; a word would be right"),
        ({**GPTQ, "bits": 5}, "quantization gptq 5-bit gptq is not supported"),
        ({**GPTQ, "bits": 4.0}, r"quantization_config.bits is 4\.0; a positive integer would be right"),
        ({**GPTQ, "checkpoint_format": "marlin"}, "quantization gptq 4-bit marlin is not supported"),
        ({**GPTQ, "format": "gptq_v3"}, "quantization gptq 4-bit gptq_v3 is not supported"),
        (
            {**GPTQ, "format": "gptq_v2", "checkpoint_format": "gptq"},
            "quantization_config.format is 'gptq_v2'; the same as quantization_config.checkpoint_format, 'gptq', or",
        ),
        (
            {**GPTQ, "dynamic": {"+:.*w2": {"bits": 5}}},
            r"quantization_config.dynamic.\+:.\*w2.bits 5 is not supported; supported: 2, 3, 4, 8",
        ),
        ({**AWQ, "dynamic": {".*w2": {"bits": 8}}}, r"quantization_config.dynamic.\.\*w2.bits 8 is not supported; sup"),
        (
            {**GPTQ, "dynamic": {"w2": {"sym": False}}},
            "quantization_config.dynamic.w2.sym False is not supported .files do not tell which modules have it",
        ),
        ({**GPTQ, "dynamic": {"w2": {"group_size": 0}}}, "quantization_config.dynamic.w2.group_size is 0; a positive"),
        ({**GPTQ, "dynamic": {"w2": {"adapter": {"r": 8}}}}, "quantization_config.dynamic.w2.adapter {'r': 8} is not"),
        ({**GPTQ, "pack_dtype": "int8"}, "quantization_config.pack_dtype 'int8' is not supported"),
        ({**GPTQ, "sym": "yes"}, "quantization_config.sym is 'yes'; true or false would be right"),
        ({**GPTQ, "desc_act": 1}, "quantization_config.desc_act is 1; true or false would be right"),
        ({**AWQ, "group_size": True}, "quantization_config.group_size is True; a positive integer or -1"),
        ({**AWQ, "bits": 3}, "quantization awq 3-bit gemm is not supported"),
        ({**AWQ, "version": "GEMV"}, "quantization awq 4-bit gemv is not supported"),
        ({**AWQ, "group_size": 0}, "quantization_config.group_size is 0; a positive integer or -1 would be right"),
        ({**AWQ, "group_size": -2}, "quantization_config.group_size is -2"),
        ({**AWQ, "group_size": "128"}, "quantization_config.group_size is '128'"),
        (
            {**AWQ, "q_group_size": 64},
            "quantization_config.q_group_size is 64; the same as quantization_config.gro",
        ),
        ({"quant_method": "awq", "bits": 4}, "quantization_config.group_size is None"),
        ("awq", "quantization_config is 'awq'; an object would be right"),
    ],
)
def test_anything_else_is_refused_with_file_found_and_supported(tmp_path, section, message):
    with pytest.raises(CheckpointError, match=f"config.json: {message}"):
        read_quantization(tmp_path, {"quantization_config": section})


METHODS = {method.value for method in QuantizationMethod} | {"exl2", "modelopt", "auto_round"}


@pytest.mark.parametrize("method", sorted(METHODS - {"awq", "gptq", *OTHER_METHODS}))
def test_other_methods_are_refused_by_their_names(tmp_path, method):
    with pytest.raises(CheckpointError) as raised:
        read_quantization(tmp_path, {"quantization_config": {"quant_method": method}})
    assert (
        str(raised.value) == f"{tmp_path}/config.json: quantization {method} is not supported; supported: {SUPPORTED}"
    )


def test_a_method_that_names_itself_by_its_keys_or_its_file_is_known(tmp_path):
    assert read_quantization(tmp_path, {"quantization_config": {"load_in_4bit": True}}) == FourBitConfig("fp4")
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "FP8"}}))
    with pytest.raises(CheckpointError, match=r"hf_quant_config.json: quantization modelopt is not supported"):
        read_quantization(tmp_path, {})


@pytest.mark.parametrize(
    ("theirs", "rules"),
    [(theirs_of_awq, AWQ_KEYS), (theirs_of_gptq, GPTQ_KEYS), (theirs_of_auto_round, auto_round.KEYS)],
)
def test_transformers_knows_no_key_without_a_rule(theirs, rules):
    theirs = theirs(bits=4)
    assert set(theirs.to_dict()) - {key for rule in rules for key in rule.keys} == set()


def test_errors_name_awqs_own_file(tmp_path):
    (tmp_path / "quant_config.json").write_text(json.dumps({"w_bit": 8, "q_group_size": 128, "version": "GEMM"}))
    with pytest.raises(CheckpointError, match=r"quant_config.json: quantization awq 8-bit gemm"):
        read_quantization(tmp_path, {})
