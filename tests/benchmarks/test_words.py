import random
from pathlib import Path

import mistral_common
from sentencepiece import SentencePieceProcessor
from serving.words import single_token_words

TOKENIZER = Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1"


def test_a_text_of_words_has_a_token_for_each():
    words = single_token_words(TOKENIZER)
    assert len(words.words) > 1000
    tokenizer = SentencePieceProcessor(model_file=str(TOKENIZER))
    rng = random.Random(0)
    texts = [words.join(words.draw(rng, 200)) for _ in range(20)]
    assert {len(tokenizer.encode(text)) for text in texts} == {200}
