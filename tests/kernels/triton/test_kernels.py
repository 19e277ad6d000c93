"""The inline PTX, whose instructions Triton's interpreter cannot run, carried out word by word."""

import random
import re

import pytest

from expertmesh.kernels.triton.kernels import _take_code_asm
from expertmesh.kernels.triton.layout import num_slots

REGISTER_MASK = 2**32 - 1


def run_ptx(asm: str, register: int) -> int:
    """Do what the two instructions of ``_take_code_asm`` do to a register."""
    found = re.fullmatch(
        r"\{ \.reg \.b32 t; shr\.u32 t, \$1, (\d+); lop3\.b32 \$0, t, (0x\w+), (0x\w+), (0x\w+); \}", asm
    )
    assert found, asm
    shift, b, c, table = (int(text, 0) for text in found.groups())
    a = register >> shift
    result = 0
    for i in range(8):
        # Bit i of the table is the result where the bits of a, b and c spell i.
        if table >> i & 1:
            result |= (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
    return result & REGISTER_MASK


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("ones", [0x6400, 0x4300], ids=["float16", "bfloat16"])
def test_both_words_of_a_register_give_their_code(bits, ones):
    generator = random.Random(0)
    for slot in range(num_slots(bits)):
        asm = _take_code_asm(slot, bits, ones)
        for _ in range(20):
            words = generator.getrandbits(16), generator.getrandbits(16)
            found = run_ptx(asm, words[1] << 16 | words[0])
            expected = [word >> slot * bits & 2**bits - 1 | ones for word in words]
            assert [found & 0xFFFF, found >> 16] == expected
