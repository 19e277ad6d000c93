"""transformers in bfloat16 on one device, with each of its ways to run experts. Knows no other engine.

Usage: python -m peers.gpu_transformers CHECKPOINT DEVICE CASE...; prints a line of JSON per way: its name, and tokens
per second by case. Weights are drawn on the device: only the shape is that of the checkpoint.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import MixtralConfig, MixtralForCausalLM

from peers.cases import measure, rate_of
from peers.transformers_bf16 import open_session

# batched_mm copies the weights of an expert for every row that chose it.
IMPLEMENTATIONS = {"grouped_mm": None, "eager": None, "batched_mm": ["decode batch 1"]}
LEFT_OUT = ("architectures", "model_type", "torch_dtype", "quantization_config")


def main() -> None:
    """Draw a model, measure every way, print."""
    directory, device, cases = Path(sys.argv[1]), torch.device(sys.argv[2]), sys.argv[3:]
    model = draw_model(json.loads((directory / "config.json").read_text()), device)
    for implementation, suitable in IMPLEMENTATIONS.items():
        model.set_experts_implementation(implementation)
        rates: dict[str, float] = {}
        for case in cases:
            if suitable is None or case in suitable:
                rates |= measure_if_it_fits(model, case)
        print(json.dumps([f"transformers bf16 {implementation}", rates]), flush=True)


def draw_model(config: dict[str, Any], device: torch.device) -> MixtralForCausalLM:
    """Make a model of this shape with the weights that transformers begins with."""
    torch.set_default_dtype(torch.bfloat16)
    with device:
        model = MixtralForCausalLM(MixtralConfig(**{key: config[key] for key in config if key not in LEFT_OUT}))
    torch.set_default_dtype(torch.float32)
    model.eval()
    return model


def measure_if_it_fits(model: MixtralForCausalLM, case: str) -> dict[str, float]:
    """Measure one case; nothing where the device has too little memory."""
    try:
        return measure(partial(rate_of, open_session=partial(open_session, model)), [case])
    except torch.OutOfMemoryError as error:
        print(f"transformers: {case} does not fit: {error}", file=sys.stderr)
        return {}


if __name__ == "__main__":
    main()
