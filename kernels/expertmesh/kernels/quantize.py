"""Round-to-nearest quantization and its inverse. Knows values, not storage.

Alphabet: N output features, K input features, G = K / group_size groups.
"""

import torch

from expertmesh.kernels.weights import Quantized, QuantizedWeight


def round_to_nearest(weight: torch.Tensor, bits: int, group_size: int, is_symmetric: bool = False) -> QuantizedWeight:
    """Quantize ``weight`` [N, K] with a scale and a zero point per group of ``group_size`` input features.

    The range of each group is widened to contain 0, so that 0 stays 0; ``is_symmetric`` makes it symmetric around 0,
    with the zero point 2**(bits - 1) everywhere. Scales are float16. Raises ValueError when ``bits`` is not from 2 to
    8, the weight is empty, K is no multiple of ``group_size``, a value is not finite or a group spans more than a
    float16 scale covers.
    """
    num_out, num_in = weight.shape
    if not 2 <= bits <= 8:
        raise ValueError(f"cannot quantize to {bits} bits; 2 to 8 would be right")
    if not weight.numel():
        raise ValueError(f"the weight is empty: {list(weight.shape)}")
    if group_size < 1 or num_in % group_size:
        raise ValueError(f"{num_in} input features are no multiple of the group size {group_size}")
    if not torch.isfinite(weight).all():
        raise ValueError("the weight holds NaN or Inf; only finite values can be quantized")
    top = 2**bits - 1
    groups = weight.float().view(num_out, -1, group_size)  # [N, G, group_size]
    low = groups.amin(-1, keepdim=True).clamp(max=0)
    high = groups.amax(-1, keepdim=True).clamp(min=0)
    if is_symmetric:
        high = torch.maximum(-low, high)
        low = -high
    widest, limit = (high - low).max().item(), torch.finfo(torch.float16).max * top
    if widest > limit:
        raise ValueError(f"a group spans {widest:g}; float16 scales of {bits}-bit codes reach {limit:g}")
    # The smallest normal float16: a group of zeros needs a scale too.
    scales = ((high - low) / top).clamp(min=2.0**-14).half().float()
    zeros = torch.full_like(scales, 2 ** (bits - 1)) if is_symmetric else (-low / scales).round().clamp(0, top)
    codes = ((groups / scales).round() + zeros).clamp(0, top)
    return QuantizedWeight(
        codes=codes.to(torch.uint8).view(num_out, num_in),
        scales=scales.half().squeeze(-1),
        zeros=zeros.to(torch.uint8).squeeze(-1),
        bits=bits,
        group_size=group_size,
    )


def dequantize(weight: Quantized, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return the values of ``weight`` [N, K], columns in the order of the input; computed in float32, then cast."""
    num_out, num_in = weight.shape
    codes = weight.codes.view(num_out, -1, weight.group_size).float()  # [N, G, group_size]
    values = (codes - weight.zeros.unsqueeze(-1).float()) * weight.scales.unsqueeze(-1).float()
    values = values.view(num_out, num_in).to(dtype)
    return values if weight.perm is None else values[:, weight.perm.argsort()]
