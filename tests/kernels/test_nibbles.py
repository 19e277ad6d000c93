import pytest
import torch

from expertmesh.kernels.bitstream import unpack_stream
from expertmesh.kernels.nibbles import NIBBLE_COLUMNS, streams_of_awq, transpose_nibbles


@pytest.mark.parametrize("num_words", [2, 4, 8])
def test_nibbles_change_places_among_words(num_words):
    words = torch.randint(-(2**31), 2**31, (num_words, 3), generator=torch.Generator().manual_seed(0)).int()
    nibbles = unpack_stream(words.flatten()[None], 4).view(-1, num_words, num_words, 3)  # [sets, nibble, word, 3]
    transpose_nibbles(words)
    found = unpack_stream(words.flatten()[None], 4).view(-1, num_words, num_words, 3)
    assert found.equal(nibbles.transpose(1, 2))


@pytest.mark.parametrize(("num_in", "num_words"), [(8, 1), (64, 3), (20, 2), (1024, 4096)])
def test_words_of_eight_outputs_become_words_of_eight_inputs(num_in, num_words):
    words = torch.randint(-(2**31), 2**31, (num_in, num_words), generator=torch.Generator().manual_seed(0)).int()
    codes = torch.empty(num_in, num_words, 8, dtype=torch.uint8)
    for nibble, column in enumerate(NIBBLE_COLUMNS):
        codes[..., column] = words >> 4 * nibble & 0xF
    streams = streams_of_awq(words)
    assert streams.shape == (-(-num_in // 8), 8 * num_words)
    assert unpack_stream(streams, 4)[:num_in].equal(codes.flatten(1))
