"""The logit lens: what the model would write next if a vector were its last hidden state.

softmax(W_U · norm_f(v)), by the model itself: one token passes through it, and behind the last block the vectors take
that token's place, a row each. So the norm, the head, and whatever scales or caps its logits are those of the family,
and nothing here needs to know their names.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .. import InputError
from ..engine.hooks import substitute
from ..models.load import LanguageModel

MOST_BYTES = 64 << 20  # of a block's float32 logits: 110 rows of a vocabulary of 152,000


def vocabulary(lm: LanguageModel, vectors: Tensor, k: int = 10) -> list[list[tuple[str, float]]]:
    """Return the k likeliest tokens of each vector with their probabilities, the likeliest first.

    With an RMS norm the order doesn't depend on a vector's length: there is no amplifier to choose.

    Args:
        vectors: (n, width), of any component and layer; of the Jacobian lens if `Lens.carried` was there before.
        k: how many.

    Returns:
        (n,) lists of (token decoded alone, probability); an empty list for a vector that isn't finite.

    Raises:
        InputError: vectors of another width, or a k that the vocabulary doesn't have.
    """
    size = lm.config.get_text_config().vocab_size
    if not isinstance(k, int) or not 1 <= k <= size:
        raise InputError("k", k, f"expected a whole number from 1 to {size}")
    found = []
    for logits in logits_of(lm, vectors):
        values, tokens = logits.topk(k)
        probabilities = (values - logits.logsumexp(-1, keepdim=True)).exp()
        for row, told in zip(tokens.tolist(), probabilities.tolist(), strict=True):
            there = told[0] == told[0]  # a vector that isn't finite has NaN everywhere
            found.append([(lm.tokenizer.decode([token]), p) for token, p in zip(row, told, strict=True)] if there else [])
    return found


def ranks(lm: LanguageModel, vectors: Tensor, words: Sequence[str]) -> Tensor:
    """Return the rank of each word's first token under each vector: (n, words) int64 on the CPU.

    1 is the likeliest; equals share the better rank. 0 is a vector that isn't finite.

    Args:
        vectors: (n, width), as of `vocabulary`.
        words: as they would follow a space; a word of several tokens goes by its first one (`first_token`).

    Raises:
        InputError: vectors of another width; a word without a letter or a number.
    """
    tokens = [first_token(lm, word) for word in words]
    parts = [
        torch.stack([(logits > logits[:, [token]]).sum(-1) + 1 for token in tokens], 1).cpu()
        * logits.isfinite().all(-1, keepdim=True).cpu()
        for logits in logits_of(lm, vectors)
    ]
    return torch.cat(parts) if parts and tokens else torch.zeros(len(vectors), len(tokens), dtype=torch.long)


def first_token(lm: LanguageModel, word: str) -> int:
    """Return the id of the first token of a word that follows a space.

    Raises:
        InputError: a blank word.
    """
    if not isinstance(word, str) or not word.strip():
        raise InputError("words", word, "expected a word")
    ids = lm.tokenizer(" " + word.strip(), add_special_tokens=False).input_ids
    return next(token for token in ids if lm.tokenizer.decode([token]).strip())  # some give the space one of its own


@torch.inference_mode()
def logits_of(lm: LanguageModel, vectors: Tensor) -> Iterator[Tensor]:
    """Yield the logits of some vectors, a block of rows at a time: (rows, vocabulary) float32 on the model's device.

    Args:
        vectors: (n, width), in any dtype, on any device.

    Raises:
        InputError: another width.
    """
    if vectors.dim() != 2 or vectors.shape[1] != lm.width:
        raise InputError("vectors", tuple(vectors.shape), f"expected shape (n, {lm.width})")
    rows = max(1, MOST_BYTES // (4 * lm.config.get_text_config().vocab_size))
    token = torch.zeros(1, 1, dtype=torch.long, device=lm.device)  # any: nothing of it is left behind the last block
    for block in vectors.split(rows) if len(vectors) else ():
        with substitute(lm.blocks[-1], block[:, None]):
            yield lm.model(token, use_cache=False, logits_to_keep=1).logits[:, -1].float()
