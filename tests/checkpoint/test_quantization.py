import json

import pytest

from expertmesh.checkpoint.quantization import AwqConfig, read_quantization
from expertmesh.errors import CheckpointError

AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}


def test_no_section_and_no_file_is_no_quantization(tmp_path):
    assert read_quantization(tmp_path, {}) is None
    assert read_quantization(tmp_path, {"quantization_config": None}) is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, AwqConfig(4, 128)),
        ({"quant_method": "AWQ", "version": "GEMM"}, AwqConfig(4, 128)),
        ({"version": None}, AwqConfig(4, 128)),
        ({"group_size": -1}, AwqConfig(4, -1)),
        ({"group_size": 32, "modules_to_not_convert": ["gate"]}, AwqConfig(4, 32)),
    ],
)
def test_awq_in_config_json(tmp_path, changes, expected):
    assert read_quantization(tmp_path, {"quantization_config": {**AWQ, **changes}}) == expected


def test_awq_in_its_own_file_with_its_own_words(tmp_path):
    section = {"zero_point": True, "q_group_size": 64, "w_bit": 4, "version": "GEMM"}
    (tmp_path / "quant_config.json").write_text(json.dumps(section))
    assert read_quantization(tmp_path, {}) == AwqConfig(4, 64)
    assert read_quantization(tmp_path, {"quantization_config": AWQ}) == AwqConfig(4, 128)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({**AWQ, "quant_method": "gptq"}, "quantization gptq 4-bit gemm is not supported; supported: awq 4-bit gemm"),
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
