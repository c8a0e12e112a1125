"""Tokens as text that can be read: letters in parts, their bytes, and what they are not part of."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from helpers.models.pieces import pieces_of
from helpers.words.plans import make_plan, positions
from helpers.words.rows import Identity

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def with_fallback() -> PreTrainedTokenizerFast:
    """A tokenizer that writes letters outside its vocabulary as bytes, as SentencePiece does."""
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"a": 256, "b": 257, "é": 258, "<unk>": 259}
    tokenizer = Tokenizer(BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)


def test_letters_in_parts(tiny):
    assert tiny.decoded_tokens("你好 😀 é م") == ["你 1/2", "你 2/2", "好 1/2", "好 2/2", " 😀 1/2", " 😀 2/2", " é", " م"]
    assert [(piece.in_hex, str(piece)) for piece in tiny.pieces("你")] == [("E4 BD", "你 1/2"), ("A0", "你 2/2")]
    assert tiny.decoded_tokens("x�") == ["x", "�"]  # it stands there


@settings(max_examples=60, deadline=None)
@given(text=TEXT)
def test_joined_they_are_the_text(tiny, with_fallback, text):
    for tokenizer in (tiny.tokenizer, with_fallback):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        if tokenizer.decode(ids) != text:  # a byte that the vocabulary lacks
            continue
        pieces = pieces_of(tokenizer, ids)
        assert len(pieces) == len(ids)
        assert b"".join(piece.data for piece in pieces).decode() == text
        assert "".join(piece.text for piece in pieces if piece.part == piece.parts) == text
        assert [piece.part for piece in pieces if piece.parts > 1] == [
            part for piece in pieces if piece.part == 1 and piece.parts > 1 for part in range(1, piece.parts + 1)
        ]


def test_bytes_of_a_vocabulary_of_letters(with_fallback):
    assert list(map(str, pieces_of(with_fallback, with_fallback("aé你b").input_ids))) == ["a", "é", "你 1/3", "你 2/3", "你 3/3", "b"]


def test_a_token_is_found_by_what_is_shown_and_ids_know_only_its_place(tiny):
    assert positions("token", "你 2/2", "a 你 b", tiny) == [3]
    plan = make_plan("a 你 b", layers="1", amplifiers=3, token=[2, 3])
    items = plan.items(tiny, Identity("tiny", "f", "float32", "sdpa"))
    renamed = plan.with_ids([item._replace(token="�", id="") for item in items], tiny, Identity("tiny", "f", "float32", "sdpa"))
    assert [item.id for item in items] == [item.id for item in renamed]
    assert [item.token for item in items] == ["你 1/2", "你 2/2"]
