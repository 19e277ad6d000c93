import pytest

from expertmesh.cli.exit_codes import child_error, exit_code


@pytest.mark.parametrize(("code", "ours"), [(2, 2), (3, 3), (1, 1), (-9, 1), (77, 1)])
def test_what_was_wrong_for_a_child_is_wrong_for_its_parent(code: int, ours: int):
    error = child_error(f"gateway ended with exit code {code}", code)
    assert (exit_code(error), str(error)) == (ours, f"gateway ended with exit code {code}")
