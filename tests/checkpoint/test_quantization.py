import json

import pytest

from expertmesh.checkpoint.quantization import AwqConfig, GptqConfig, read_quantization
from expertmesh.errors import CheckpointError
from expertmesh.kernels.gptq import GptqFormat

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
        ({"bits": 3, "desc_act": False, "damp_percent": 0.1}, GptqConfig(GptqFormat(3, True), 128, False)),
    ],
)
def test_gptq_in_either_file(tmp_path, changes, expected):
    section = {**GPTQ, **changes}
    assert read_quantization(tmp_path, {"quantization_config": section}) == expected
    (tmp_path / "quantize_config.json").write_text(
        json.dumps({k: v for k, v in section.items() if k != "quant_method"})
    )
    assert read_quantization(tmp_path, {}) == expected


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (AwqConfig(128, True), "awq 4-bit g128"),
        (GptqConfig(GptqFormat(3, True), -1, False), "gptq 3-bit no groups"),
        (GptqConfig(GptqFormat(8, False), 32, True), "gptq 8-bit g32 act-order"),
    ],
)
def test_they_describe_themselves(config, words):
    assert str(config) == words


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {**AWQ, "quant_method": "bitsandbytes"},
            "quantization bitsandbytes 4-bit gemm is not supported; supported: awq",
        ),
        ({**GPTQ, "bits": 5}, "quantization gptq 5-bit gptq is not supported"),
        ({**GPTQ, "bits": 4.0}, r"quantization gptq 4\.0-bit gptq is not supported"),
        ({**GPTQ, "checkpoint_format": "marlin"}, "quantization gptq 4-bit marlin is not supported"),
        ({**GPTQ, "sym": "yes"}, "sym is 'yes'; true or false would be right"),
        ({**GPTQ, "desc_act": 1}, "desc_act is 1; true or false would be right"),
        ({**AWQ, "group_size": True}, "group size is True"),
        ({**AWQ, "quant_method": None}, "quantization of unknown method 4-bit gemm"),
        ({**AWQ, "bits": 3}, "quantization awq 3-bit gemm is not supported"),
        ({**AWQ, "version": "GEMV"}, "quantization awq 4-bit gemv is not supported"),
        ({**AWQ, "group_size": 0}, "group size is 0; a positive integer or -1 would be right"),
        ({**AWQ, "group_size": -2}, "group size is -2"),
        ({**AWQ, "group_size": "128"}, "group size is '128'"),
        ({"quant_method": "awq", "bits": 4}, "group size is None"),
        ("awq", "quantization_config is 'awq'; an object would be right"),
    ],
)
def test_anything_else_is_refused_with_file_found_and_supported(tmp_path, section, message):
    with pytest.raises(CheckpointError, match=f"config.json: {message}"):
        read_quantization(tmp_path, {"quantization_config": section})


def test_errors_name_awqs_own_file(tmp_path):
    (tmp_path / "quant_config.json").write_text(json.dumps({"w_bit": 8, "q_group_size": 128, "version": "GEMM"}))
    with pytest.raises(CheckpointError, match=r"quant_config.json: quantization awq 8-bit gemm"):
        read_quantization(tmp_path, {})
