"""Scales for the attention of one layer: between the norm and q, k and v, and between v and o where heads allow.

Alphabet: T calibration tokens, D hidden width, H query heads, d head width.
"""

from expertmesh.calibration.activations import ForwardPass
from expertmesh.calibration.search import Round, best_scales, candidate_scales, output_errors, storable_scales
from expertmesh.checkpoint.rescale import Rescale


def rescale_attention(forward: ForwardPass, layer: int, rounding: Round) -> dict[str, Rescale]:
    """Find the factors for the attention of ``layer``, by the names of matrices, and run it."""
    specs, weights = forward.tensors.layer(layer), forward.weights
    norm = weights.tensor(specs["input_norm"])
    x = forward.normalised(norm)  # [T, D]
    attended = forward.attend(specs, x)  # [T, H * d]
    query, key, value, output = (specs[role] for role in ("q", "k", "v", "o"))
    candidates = storable_scales(candidate_scales(query.name, x), norm)
    qkv = {spec.name: weights.weight(spec).data for spec in (query, key, value)}
    shared = best_scales(candidates, output_errors(qkv, x, candidates, rounding))
    rescales = {specs["input_norm"].name: Rescale(outputs=shared), **{name: Rescale(inputs=shared) for name in qkv}}
    # Where several query heads share a value head, so do columns of o share a row of v; clipped rows of v cannot move.
    if forward.config.num_heads == forward.config.num_kv_heads and forward.config.max_qkv is None:
        candidates = candidate_scales(output.name, attended)
        errors = output_errors({output.name: weights.weight(output).data}, attended, candidates, rounding)
        between = best_scales(candidates, errors)
        rescales |= {value.name: Rescale(shared, between), output.name: Rescale(inputs=between)}
    return rescales
