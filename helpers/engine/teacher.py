"""How likely given texts are under given vectors: teacher forcing, many rows in one pass over the shared prefix."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import InputError
from ..models.load import LanguageModel
from ..words.components import OUTPUT
from ..words.target import TargetPrompt
from .batches import Failures, check_batch_size, run_with_bisection
from .interpret import sites_of
from .prompt import PatchedPrompt

MOST_TOKENS = 1024  # of a batch, which keep two CPU cores busy: a small batch has texts of one length, and no padding
MOST_BYTES = 256 << 20  # of a batch's logits


class TextScores(NamedTuple):
    """How likely texts are.

    Attributes:
        log_probs: (n,) of each text, the log-probability of each of its tokens, (tokens,) float32.
        entropy: (n,) float32, in nats, of what the model would write first.
        log_prob: (n,) float32, the mean of each text's log-probabilities; NaN where a row failed.
    """

    log_probs: list[Tensor]
    entropy: Tensor

    @property
    def log_prob(self) -> Tensor:
        return torch.stack([found.mean() for found in self.log_probs])


def score_texts(
    lm: LanguageModel,
    vectors: Tensor | None,
    target_layers: int | Sequence[int],
    texts: Sequence[str],
    target_prompt: TargetPrompt | PatchedPrompt | None = None,
    batch_size: int | None = None,
    target_component: str | Sequence[str] = OUTPUT,
) -> TextScores:
    """Return the log-probability of each text as the continuation of the target prompt under its vector.

    Args:
        vectors: (n, width), already amplified, as in `interpret`; None patches nothing, for a null.
        target_layers: as in `interpret`.
        texts: (n,) as the model would write them, with the space that they begin with; no end-of-sequence is added.
        target_prompt: T, or as the model has read it already, if that has room for the longest text; the paper's if left
            out.
        batch_size: rows at a time; as many as give a pass of a good size if left out.
        target_component: where in block ℓ* a vector is put: one of `components.PLACES`, or (n,).

    Raises:
        InputError: shapes or layers that this model doesn't have; a text that is empty or has no tokens; not as many
            texts as vectors.
    """
    tokens = [lm.tokenizer(text, add_special_tokens=False).input_ids if isinstance(text, str) else [] for text in texts]
    for text, found in zip(texts, tokens, strict=True):
        if not found:
            raise InputError("texts", text, "expected a text with at least one token")
    if not tokens:
        return TextScores([], torch.empty(0))
    if vectors is not None and len(vectors) != len(tokens):
        raise InputError("texts", len(tokens), f"expected as many as vectors, {len(vectors)}")
    check_batch_size(batch_size)
    targets = sites_of(lm, vectors, target_layers, len(tokens), target_component)
    prompt, longest = target_prompt, max(map(len, tokens))
    if not isinstance(prompt, PatchedPrompt):
        prompt = PatchedPrompt(lm, prompt or TargetPrompt(), longest)
    elif prompt.max_new_tokens < longest:
        prompt = PatchedPrompt(lm, prompt.target_prompt, longest)
    if vectors is not None:
        prompt.check_vectors(vectors)
    order = sorted(range(len(tokens)), key=lambda row: -len(tokens[row]))
    log_probs: list[Tensor] = [torch.empty(0)] * len(tokens)
    entropy, failures = torch.full((len(tokens),), torch.nan), Failures()
    start = 0
    while start < len(order):
        batch = order[start : start + (batch_size or good_size(lm, len(tokens[order[start]])))]
        start += len(batch)

        def work(part: slice, batch=batch) -> tuple[list[Tensor], Tensor]:
            rows = batch[part]
            of = [targets[row] for row in rows]
            given = torch.stack([prompt.placeholder_states[site] for site in of]) if vectors is None else vectors[rows]
            return prompt.log_probs_of([tokens[row] for row in rows], given, of)

        for part, result, error in run_with_bisection(work, len(batch), lm.device, failures):
            rows = batch[part]
            found = ([torch.full((len(tokens[rows[0]]),), torch.nan)], torch.nan) if error else result
            entropy[rows] = found[1]
            for row, scores in zip(rows, found[0], strict=True):
                log_probs[row] = scores
    return TextScores(log_probs, entropy)


def relevancy(
    lm: LanguageModel,
    vectors: Tensor,
    target_layers: int | Sequence[int],
    texts: Sequence[str],
    target_prompt: TargetPrompt | None = None,
    batch_size: int | None = None,
    target_component: str | Sequence[str] = OUTPUT,
) -> list[Tensor]:
    """Return how much each token of each text depends on its vector: SelfIE's relevancy.

    It is |p(token | patched) − p(token | nothing patched)|, each token after the true ones before it. A token that the
    prompt and the text alone make as likely has 0. Texts are tokenized anew, which may cut a written text otherwise.

    Args:
        as of `score_texts`.

    Returns:
        (n,) tensors, (tokens,) float32; NaN where a row failed.
    """
    more = target_prompt, batch_size, target_component
    patched = score_texts(lm, vectors, target_layers, texts, *more).log_probs
    alone = list(dict.fromkeys(texts))  # what nothing patched gives is the same wherever it isn't patched
    nothing = dict(zip(alone, score_texts(lm, None, 0, alone, target_prompt, batch_size).log_probs, strict=True))
    return [(own.exp() - nothing[text].exp()).abs() for own, text in zip(patched, texts, strict=True)]


def good_size(lm: LanguageModel, tokens: int) -> int:
    """Return how many rows of so many tokens make a good pass."""
    most = min(MOST_TOKENS, MOST_BYTES // (4 * lm.config.get_text_config().vocab_size))
    return max(1, most // tokens)
