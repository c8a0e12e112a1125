"""What the model writes after a text when nothing is patched: the controls without a vector."""

from collections.abc import Iterator, Sequence

import torch
from transformers import DynamicCache

from .. import InputError
from ..models.load import LanguageModel
from ..words.target import TargetPrompt
from .sampling import greedy
from .writing import decoded, until_stop

ROWS = 64  # texts of a batch


def in_plain_text(lm: LanguageModel, names: Sequence[str], target_prompt: TargetPrompt) -> list[str]:
    """Return the target prompt with each name in plain text at the placeholder's place, (n,).

    Raises:
        InputError: the target prompt doesn't end in its placeholder.
    """
    *before, last = lm.decoded_tokens(target_prompt.text)
    if target_prompt.placeholder not in (-1, len(before), last, last.strip()):
        raise InputError("target_prompt", target_prompt.text, "expected to end in its placeholder")
    start = target_prompt.text.removesuffix(last.strip())
    return [start + name for name in names]


def write_after(lm: LanguageModel, texts: Sequence[str], max_new_tokens: int = 10) -> list[str]:
    """Return what the model writes after each text, greedily, (n,); cut at end-of-sequence.

    Raises:
        InputError: a text that is too long for the model, with what it writes.
    """
    texts, written = list(texts), {}
    for rows, batch in batches_after(lm, texts, max_new_tokens):
        written |= dict(zip(rows, batch, strict=True))
    return [written[row] for row in range(len(texts))]


def batches_after(
    lm: LanguageModel, texts: Sequence[str], max_new_tokens: int
) -> Iterator[tuple[list[int], list[str]]]:
    """Yield what `write_after` returns batch by batch: which texts, and what is written after them.

    Texts of the same length share a batch, so that nothing is padded.
    """
    ids = [lm.token_ids(text) for text in texts]
    for text, tokens in zip(texts, ids, strict=True):
        if (length := len(tokens) + max_new_tokens) > lm.context_length:
            raise InputError("texts", text[:40], f"{length} tokens with what follows, {lm.name} reads {lm.context_length}")
    for length in sorted({len(tokens) for tokens in ids}):
        same = [row for row, tokens in enumerate(ids) if len(tokens) == length]
        for start in range(0, len(same), ROWS):
            rows = same[start : start + ROWS]
            yield rows, _written(lm, [ids[row] for row in rows], max_new_tokens)


@torch.inference_mode()
def _written(lm: LanguageModel, ids: Sequence[list[int]], max_new_tokens: int) -> list[str]:
    """Write after token sequences of one length."""
    given = torch.tensor(ids, device=lm.device)
    cache, new = DynamicCache(config=lm.model.config), []
    for _ in range(max_new_tokens):
        given = greedy(lm.model(given, past_key_values=cache, logits_to_keep=1).logits[:, -1])[1][:, None]
        new.append(given)
    kept = [until_stop(row, lm.stop_tokens) for row in torch.cat(new, 1).tolist()]
    return decoded(lm, kept)
