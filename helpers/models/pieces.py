"""Turn tokens into text that can be read: a letter that several tokens share is whole in each of them.

Byte-level tokenizers cut 你, م or an emoji into bytes, which decoded alone are all "�".
"""

import codecs
import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

UNREADABLE = "�"
BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # how SentencePiece writes a single byte


class Piece(NamedTuple):
    """A token of a text.

    Attributes:
        text: what it stands for: of a token that has parts of letters, that of all the tokens that have them.
        data: its own bytes.
        part, parts: which of the tokens that stand for this text it is, from 1, and how many there are.
    """

    text: str
    data: bytes
    part: int = 1
    parts: int = 1

    def __str__(self) -> str:
        return self.text if self.parts == 1 else f"{self.text} {self.part}/{self.parts}"

    @property
    def in_hex(self) -> str:
        """Return its bytes, as "E4 BD"."""
        return self.data.hex(" ").upper()


def pieces_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[Piece]:
    """Decode each token alone, and those that have parts of letters together, as few as make whole letters."""
    found: list[Piece] = []
    waiting: list[bytes] = []  # tokens that a letter begins in and hasn't ended in
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for id in ids:
        text = tokenizer.decode([id])
        data = _bytes_of(tokenizer, id) if UNREADABLE in text else text.encode("utf-8", "surrogatepass")
        if not waiting and UNREADABLE not in text:
            found.append(Piece(text, data))
            continue
        waiting.append(data)
        decoder.decode(data)
        if not decoder.getstate()[0]:
            found += _together(waiting)
            waiting = []
    return found + _together(waiting)


def _together(parts: list[bytes]) -> list[Piece]:
    text = b"".join(parts).decode("utf-8", "replace")
    return [Piece(text, part, number, len(parts)) for number, part in enumerate(parts, 1)]


def _bytes_of(tokenizer: PreTrainedTokenizerBase, id: int) -> bytes:
    """Return the bytes of a token that is no text alone; those of "�" where the tokenizer doesn't tell."""
    written = tokenizer.convert_ids_to_tokens(id) or UNREADABLE
    if single := BYTE.fullmatch(written):
        return bytes.fromhex(single[1])
    byte_of = _byte_of_letter()
    return bytes(map(byte_of.__getitem__, written)) if set(written) <= byte_of.keys() else UNREADABLE.encode()


@cache
def _byte_of_letter() -> dict[str, int]:
    """Return the byte that each letter of a byte-level vocabulary stands for."""
    return {letter: byte for byte, letter in bytes_to_unicode().items()}
