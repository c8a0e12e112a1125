"""What the rows of a batch have written so far, token by token; rows that have ended can leave the batch."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..models.load import LanguageModel
from .sampling import entropy_of

LEAVE = 1 / 2  # of the rows that the model runs: so many must have ended before they leave (benchmarks/)


class Written(NamedTuple):
    """What a batch of rows wrote: (rows,) each.

    Attributes:
        tokens: lists of token ids, cut at end-of-sequence; to the token that ends the first item, where that was asked.
        finite: whether the largest logits were finite.
        entropy: of the first token's distribution, in nats.
        log_prob: mean log-probability of the tokens, the end-of-sequence included where there is one.
    """

    tokens: list[list[int]]
    finite: list[bool]
    entropy: list[float]
    log_prob: list[float]


class Writing:
    """The rows of a batch while they write.

    Attributes:
        present: (some,) int64 numbers of the rows that the model still runs, in order; `add` is given these.

    Args:
        first: (rows, vocabulary) logits of the first token.
        steps: how many tokens a row may write.
        separator: a row has ended when it has written this; "" never ends a row.
    """

    def __init__(self, lm: LanguageModel, first: Tensor, steps: int, separator: str = ""):
        self._lm, self._separator, self._step = lm, separator, 0
        self._stop_tokens = torch.tensor(sorted(lm.stop_tokens), dtype=torch.long, device=first.device)
        self.present = torch.arange(len(first), device=first.device)
        self._tokens = self.present.new_zeros(len(first), steps)
        self._length = torch.zeros_like(self.present)
        self._entropy = entropy_of(first)
        self._log_prob = torch.zeros_like(self._entropy)
        self._ended = torch.zeros_like(self._entropy, dtype=torch.bool)
        self._finite = ~self._ended

    def add(self, chosen: Tensor, usable: Tensor, log_prob: Tensor) -> bool:
        """Add a token to each of the present rows; return whether all rows have ended.

        Args:
            chosen: (present,) tokens; those of rows that have ended before don't count.
            usable: (present,) whether the logits were finite.
            log_prob: (present,) of the tokens, float32.
        """
        here, writes = self.present, ~self._ended[self.present]
        self._tokens[here, self._step] = chosen
        self._finite[here] &= usable | ~writes
        self._log_prob[here] += log_prob.where(writes, 0)
        self._length[here] += writes
        self._ended[here] |= torch.isin(chosen, self._stop_tokens)
        self._step += 1
        if self._separator:
            self._end_items()
        return bool(self._ended.all())

    def leave(self) -> Tensor | None:
        """Let the rows that have ended leave, if that pays; return the places of those that stay among the present.

        Returns:
            (staying,) int64; None if nothing changes.
        """
        stays = (~self._ended[self.present]).nonzero().squeeze(1)
        if len(stays) > LEAVE * len(self.present):
            return None
        self.present = self.present[stays]
        return stays

    def written(self) -> Written:
        """Return what all rows have written."""
        tokens = zip(self._tokens.tolist(), self._length.tolist(), strict=True)
        texts = [until_stop(row[:length], self._lm.stop_tokens) for row, length in tokens]
        return Written(texts, self._finite.tolist(), self._entropy.tolist(), (self._log_prob / self._length).tolist())

    def _end_items(self) -> None:
        """End the rows whose text has the separator, wherever tokens are cut."""
        rows = (~self._ended).nonzero().squeeze(1)
        texts = decoded(self._lm, self._tokens[rows, : self._step].tolist())
        is_over = torch.tensor([self._separator in text for text in texts], dtype=torch.bool, device=rows.device)
        self._ended[rows] = is_over


def decoded(lm: LanguageModel, tokens: list[list[int]]) -> list[str]:
    """Return the texts of rows of token ids, without special tokens."""
    return lm.tokenizer.batch_decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def until_stop(tokens: list[int], stop_tokens: set[int]) -> list[int]:
    """Return the tokens before the first that ends a text."""
    end = next((i for i, token in enumerate(tokens) if token in stop_tokens), len(tokens))
    return tokens[:end]
