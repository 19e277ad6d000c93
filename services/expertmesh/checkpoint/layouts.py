"""What files call the tensors of a quantized matrix. Knows names, no numbers."""

from dataclasses import dataclass

# What safetensors calls the dtype of words into which codes are packed, and of numbers that are scaled.
WORDS, FLOATS, INTEGERS = "I32", "F8_E4M3", "I8"
WEIGHT = "weight"
QUANT_MAP = f"{WEIGHT}.quant_map"


@dataclass(frozen=True)
class Layout:
    """What the tensors of a packed matrix are called behind its name; ``has_inputs_first`` of scales [groups, N]."""

    codes: str
    zeros: str | None
    scales: str
    others: tuple[str, ...]
    has_inputs_first: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """All of them."""
        zeros = [self.zeros] if self.zeros else []
        return self.codes, *zeros, self.scales, *self.others

    def needed(self, has_zero_points: bool) -> tuple[str, ...]:
        """Those without which there is no matrix."""
        zeros = (self.zeros,) if has_zero_points and self.zeros else ()
        return self.codes, self.scales, *zeros

    @property
    def mark(self) -> str:
        """The one that tells a packed matrix from a plain one."""
        return self.scales if self.codes == WEIGHT else self.codes


def state_of(quant_type: str) -> str:
    """Name the tensor of bitsandbytes that holds the sizes of blocks."""
    return f"{WEIGHT}.quant_state.bitsandbytes__{quant_type}"


def _four_bit_layout(quant_type: str) -> Layout:
    nested = (f"{WEIGHT}.nested_absmax", f"{WEIGHT}.nested_quant_map")
    return Layout(WEIGHT, None, f"{WEIGHT}.absmax", (QUANT_MAP, state_of(quant_type), *nested, "bias"))


AWQ_LAYOUT = Layout("qweight", "qzeros", "scales", ("bias",), has_inputs_first=True)
GPTQ_LAYOUT = Layout("qweight", "qzeros", "scales", ("g_idx", "bias"), has_inputs_first=True)
PACK_QUANTIZED_LAYOUT = Layout(
    "weight_packed",
    "weight_zero_point",
    "weight_scale",
    ("weight_g_idx", "weight_shape", "bias"),
)
# What inputs were scaled by when the matrix was made is not used here, but other readers of a split checkpoint want it.
SCALED_LAYOUT = Layout(WEIGHT, "weight_zero_point", "weight_scale", ("input_scale", "input_zero_point", "bias"))
SCALED_INVERSELY_LAYOUT = Layout(WEIGHT, None, "weight_scale_inv", ("input_scale", "activation_scale", "bias"))
LLM_INT8_LAYOUT = Layout(WEIGHT, None, "SCB", ("weight_format", "bias"))
FOUR_BIT_LAYOUTS = {quant_type: _four_bit_layout(quant_type) for quant_type in ("nf4", "fp4")}
LAYOUTS = (
    AWQ_LAYOUT,
    GPTQ_LAYOUT,
    PACK_QUANTIZED_LAYOUT,
    SCALED_LAYOUT,
    SCALED_INVERSELY_LAYOUT,
    LLM_INT8_LAYOUT,
    *FOUR_BIT_LAYOUTS.values(),
)
MARKS = tuple(dict.fromkeys(layout.mark for layout in LAYOUTS))
MAX_PARTS = max(len(layout.parts) for layout in LAYOUTS)
