"""Each op against its torch twin, by relative error: interpreted on the CPU, and on a GPU if there is one."""

import pytest
from far_cases import multiply_last_outputs
from triton_cases import MAX_ERRORS, Case, in_dtypes, op_errors, relative_error

OPS = in_dtypes(
    {
        "4 bits": Case(),
        "3 bits": Case(bits=3, bias=True),
        "2 bits": Case(bits=2, group_size=0),
        "8 bits": Case(bits=8, act_order=True),
        "dense": Case(bits=16, bias=True),
        "odd sizes": Case(group_size=0, hidden=37, inner=41),
        "several spans": Case(bits=3, hidden=544, inner=24),
        "K in parts": Case(hidden=2048, inner=24, bias=True),
        "no rows": Case(num_rows=(0, 0, 0)),
    },
    ["float16", "bfloat16"],
)


@pytest.mark.parametrize("name", OPS)
def test_ops_do_what_their_twins_do(name, interpreted):
    errors = interpreted(op_errors, OPS[name], "cpu")
    assert max(errors.values()) < MAX_ERRORS[OPS[name].dtype], errors


@pytest.mark.gpu
@pytest.mark.parametrize("name", OPS)
def test_ops_on_a_gpu_do_what_their_twins_do(name):
    errors = op_errors(OPS[name], "cuda")
    assert max(errors.values()) < MAX_ERRORS[OPS[name].dtype], errors


def test_values_beyond_those_that_32_bits_count_are_found(interpreted):
    found, expected = interpreted(multiply_last_outputs)
    assert relative_error(found, expected) < 1e-6
