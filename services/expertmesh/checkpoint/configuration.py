"""The configuration of a checkpoint: config.json, Mistral's own params.json, or metadata of GGUF. Needs no torch."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expertmesh.architectures.gguf_metadata import config_from_metadata, names_in_metadata
from expertmesh.architectures.jsonfile import read_json
from expertmesh.architectures.mistral_params import config_from_params, names_in_params
from expertmesh.architectures.model_config import ModelConfig
from expertmesh.architectures.registry import NO_NAMES, read_model
from expertmesh.checkpoint.codes import GgufConfig
from expertmesh.errors import CheckpointError
from expertmesh.gguf.files import GgufModel, find_gguf, open_gguf
from expertmesh.kernels.formats import GGML_BLOCKS

CONFIG, PARAMS = "config.json", "params.json"
# What GGUF calls the dtypes of config.json.
PLAIN_KINDS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Configuration:
    """What ``file`` says: ``values`` in the words of config.json, for which it has ``names`` of its own; the model.

    ``quantization`` is what a GGUF file itself shows; others say it in ``values`` or in files beside.
    """

    file: Path
    values: dict[str, Any]
    names: Mapping[str, str]
    model: ModelConfig
    quantization: GgufConfig | None = None


def read_configuration(directory: Path) -> Configuration:
    """Read and check the configuration of a checkpoint.

    CheckpointError names the file, the key, its value and what would be right; config.json is what is missing where
    there is neither.
    """
    if gguf := find_gguf(directory):
        return _read_gguf(open_gguf(gguf))
    if not directory.is_dir():
        raise CheckpointError(
            f"{directory} is not a directory; give the directory that holds config.json, or a .gguf file"
        )
    file, params = directory / CONFIG, directory / PARAMS
    if file.exists() or not params.exists():
        values = read_json(file)
        return Configuration(file, values, NO_NAMES, read_model(values, file))
    read = read_json(params)
    values, names = config_from_params(params, read), names_in_params(read)
    return Configuration(params, values, names, read_model(values, params, names))


def _read_gguf(gguf: GgufModel) -> Configuration:
    values, names = config_from_metadata(gguf.file, gguf.metadata, gguf.tensors), names_in_metadata()
    num_bytes: Counter[str] = Counter()
    for tensor in gguf.tensors.values():
        num_bytes[tensor.kind] += tensor.data.nbytes
    kinds = [kind for kind, _ in num_bytes.most_common()]
    values["dtype"] = next((PLAIN_KINDS[kind] for kind in kinds if kind in PLAIN_KINDS), None)
    blocks = tuple(kind for kind in kinds if kind in GGML_BLOCKS)
    model = read_model(values, gguf.file, names)
    return Configuration(gguf.file, values, names, model, GgufConfig(blocks) if blocks else None)
