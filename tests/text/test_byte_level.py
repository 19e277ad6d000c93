from tokenizers.pre_tokenizers import ByteLevel

from expertmesh.text.byte_level import ALPHABET, bytes_of


def test_the_alphabet_is_that_of_the_library():
    assert set(ALPHABET) == set(ByteLevel.alphabet())
    assert sorted(ALPHABET.values()) == list(range(256))


def test_a_text_is_written_as_the_library_writes_it():
    text = "naïve 日本\n\t🙂 ~\u00ad"
    [(written, _)] = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    assert bytes_of(written) == text.encode()
