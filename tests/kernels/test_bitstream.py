import pytest
import torch

from expertmesh.kernels.bitstream import pack_stream, unpack_columns, unpack_stream

WIDTHS = [2, 3, 4, 5, 8]


def random_codes(bits: int, num_values: int = 96) -> torch.Tensor:
    return torch.randint(0, 2**bits, (num_values, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(bits))


@pytest.mark.parametrize("bits", WIDTHS)
def test_the_words_of_a_column_are_one_little_endian_stream(bits):
    codes = random_codes(bits)
    words = pack_stream(codes, bits)
    for column in range(codes.shape[1]):
        stream = sum(code << bits * i for i, code in enumerate(codes[:, column].tolist()))
        assert words[:, column].numpy().tobytes() == stream.to_bytes(4 * len(words), "little")


@pytest.mark.parametrize("bits", WIDTHS)
def test_unpacking_gives_the_codes_back(bits):
    codes = random_codes(bits)
    assert unpack_stream(pack_stream(codes, bits), bits).equal(codes)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize(("num_values", "num_columns"), [(96, 5), (32, 1), (32, 7), (320, 1)])
def test_columns_become_rows(bits, num_values, num_columns):
    generator = torch.Generator().manual_seed(bits)
    codes = torch.randint(0, 2**bits, (num_values, num_columns), dtype=torch.uint8, generator=generator)
    rows = unpack_columns(pack_stream(codes, bits), bits)
    assert rows.equal(codes.T)
    assert rows.is_contiguous()


@pytest.mark.parametrize("bits", WIDTHS)
def test_all_ones_survive_the_sign_bit(bits):
    codes = torch.full((32, 2), 2**bits - 1, dtype=torch.uint8)
    words = pack_stream(codes, bits)
    assert (words == -1).all()
    assert unpack_stream(words, bits).equal(codes)
    assert unpack_columns(words, bits).equal(codes.T)


def test_what_does_not_fill_words_is_named():
    with pytest.raises(ValueError, match="31 values of 3 bits do not fill whole 32-bit words"):
        pack_stream(torch.zeros(31, 1, dtype=torch.uint8), 3)
    with pytest.raises(ValueError, match="2 words of 32 bits do not hold whole values of 3 bits"):
        unpack_stream(torch.zeros(2, 1, dtype=torch.int32), 3)
