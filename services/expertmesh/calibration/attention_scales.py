"""Scales for the attention of one layer: between the norm and q, k and v, and between v and o where heads allow.

Alphabet: T calibration tokens, D hidden width, H query heads, d head width.
"""

from expertmesh.calibration.activations import ForwardPass
from expertmesh.calibration.search import Round, best_scales, candidate_scales, output_errors, storable_scales
from expertmesh.checkpoint.rescale import Rescale


def rescale_attention(forward: ForwardPass, layer: str, rounding: Round) -> dict[str, Rescale]:
    """Find the factors for the attention of ``layer`` ("model.layers.3"), by matrix name, and run it."""
    norm_name, prefix = f"{layer}.input_layernorm", f"{layer}.self_attn"
    norm = forward.weights.values(norm_name)
    x = forward.normalised(norm)  # [T, D]
    attended = forward.attend(prefix, x)  # [T, H * d]
    candidates = storable_scales(candidate_scales(prefix, x), norm)
    qkv = {name: forward.weights.matrix(name).data for name in (f"{prefix}.{part}_proj" for part in "qkv")}
    shared = best_scales(candidates, output_errors(qkv, x, candidates, rounding))
    rescales = {norm_name: Rescale(outputs=shared), **{name: Rescale(inputs=shared) for name in qkv}}
    # Where several query heads share a value head, so do columns of o share a row of v.
    if forward.config.num_heads == forward.config.num_kv_heads:
        output = f"{prefix}.o_proj"
        candidates = candidate_scales(output, attended)
        errors = output_errors({output: forward.weights.matrix(output).data}, attended, candidates, rounding)
        between = best_scales(candidates, errors)
        rescales |= {f"{prefix}.v_proj": Rescale(shared, between), output: Rescale(inputs=between)}
    return rescales
