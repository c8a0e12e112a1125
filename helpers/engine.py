"""The engine: read the target prompt up to its placeholder once, put α·v there, let the model write."""

import copy
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor
from transformers import DynamicCache

from .attention import SharedPrefixCache, can_share, shared_prefix_attention
from .decoding import Sampling, greedy
from .hooks import patch, record
from .models import LanguageModel
from .plans import TargetPrompt, locate

SAME_LOGITS = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}  # relative difference that rounding explains


class PatchedPrompt:
    """A target prompt read up to its placeholder, to be continued from any vectors.

    Two interpretations with the same target prompt differ only from the placeholder on: in a causal model nothing
    before it can see the patch. So the prefix runs once, and its keys and values serve all rows; each row costs the
    placeholder, what follows it in the prompt (nothing, in the paper's), and its new tokens.

    Where the model allows it (`shares_prefix`), attention reads the prefix once for all rows; otherwise the model's
    own attention reads a copy for each row. The same results, to the rounding: it is tried on this prompt first.

    Attributes:
        max_new_tokens: how many tokens a row may write.
        placeholder_norms: (layers,) float32, norm of the placeholder's own hidden state h_{i*}^{ℓ*}.
        row_bytes: memory that a row of a batch needs, at most.
    """

    @torch.inference_mode()
    def __init__(self, lm: LanguageModel, target_prompt: TargetPrompt, max_new_tokens: int):
        self.lm, self.max_new_tokens = lm, max_new_tokens
        ids = torch.tensor([lm.token_ids(target_prompt.text)], device=lm.device)
        position = locate("placeholder", target_prompt.placeholder, target_prompt.text, lm)
        self.tail = ids[:, position:]  # the placeholder and what follows it
        self.room = self.tail.shape[1] + max_new_tokens - 1  # tokens that a row adds to the cache
        self.prefix = DynamicCache(config=lm.model.config)
        if position:
            lm.model(ids[:, :position], past_key_values=self.prefix, logits_to_keep=1)
        self.row_bytes = self._row_bytes(position)
        self.shares_prefix = False
        with record(dict(enumerate(lm.blocks))) as hidden_states:
            usual = self._unpatched_logits()
        self.placeholder_norms = torch.stack([h[0, 0].float().norm().cpu() for h in hidden_states.values()])
        self._room_made: SharedPrefixCache | None = None  # kept from batch to batch
        self.shares_prefix = can_share(lm.model, self.prefix, self.room) and self._agrees_when_shared(usual)

    @torch.inference_mode()
    def continue_from(
        self,
        vectors: Tensor,
        target_layers: Tensor,
        decoding: Sampling | None = None,
        seeds: Sequence[int] | None = None,
        max_new_tokens: int | None = None,
    ) -> tuple[list[list[int]], list[bool]]:
        """New tokens of one batch.

        Args:
            vectors: (rows, width) float32, already amplified.
            target_layers: (rows,) int64, the block ℓ* that each row is patched at.
            seeds: (rows,), one generator each, so that a row's draws don't depend on its batch.
            max_new_tokens: fewer than the prompt was made for, if given.

        Returns:
            (rows,) lists of token ids, cut at end-of-sequence; (rows,) whether all logits were finite.
        """
        rows = len(vectors)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds] if decoding else None
        stop_tokens = torch.tensor(sorted(self.lm.stop_tokens), dtype=torch.long, device=self.lm.device)

        with self._attention():
            cache = self._after_prefix(rows)
            with patch(self.lm.blocks, target_layers, vectors, position=0):  # the only pass that is patched
                logits = self._next_logits(self.tail.expand(rows, -1), cache)
            new_tokens, ended, finite = [], False, True
            for step in range(max_new_tokens or self.max_new_tokens):
                if step:
                    logits = self._next_logits(new_tokens[-1][:, None], cache)
                largest, chosen = greedy(logits)
                usable = largest.isfinite()  # the largest of logits with a NaN is the NaN
                if decoding:
                    chosen = torch.where(usable, decoding.choose(logits.float(), generators), chosen)
                finite = finite & (usable | ended)
                new_tokens.append(chosen)
                ended = ended | torch.isin(chosen, stop_tokens)
                if ended.all():
                    break
        texts = torch.stack(new_tokens, 1).tolist()
        return [_until_stop(tokens, self.lm.stop_tokens) for tokens in texts], finite.tolist()

    def _attention(self):
        return shared_prefix_attention(self.lm.model) if self.shares_prefix else nullcontext()

    def _after_prefix(self, rows: int) -> DynamicCache | SharedPrefixCache:
        """A cache in which so many rows have read the prefix."""
        if self.shares_prefix:
            if self._room_made is None or self._room_made.rows != rows:
                self._room_made = None  # freed before new room is made
                self._room_made = SharedPrefixCache(self.prefix, rows, self.room)
            self._room_made.forget_rows()
            return self._room_made
        cache = copy.deepcopy(self.prefix)
        for layer in cache.layers:
            if layer.is_initialized:  # views of one prefix: the first new token makes them rows of their own
                layer.keys, layer.values = layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1)
        return cache

    def _next_logits(self, ids: Tensor, cache: DynamicCache | SharedPrefixCache) -> Tensor:
        """(rows, vocabulary) logits after `ids` (rows, tokens), which join the cache."""
        shared = {"shared_prefix": cache} if self.shares_prefix else {}
        return self.lm.model(ids, past_key_values=cache, logits_to_keep=1, **shared).logits[:, -1]

    def _unpatched_logits(self) -> Tensor:
        """(2, vocabulary) logits of two rows that have read the whole prompt, and one more token where there is room."""
        ids = torch.cat([self.tail, self.tail[:, -1:]], 1)[:, : self.room]
        with self._attention():
            return self._next_logits(ids.expand(2, -1), self._after_prefix(rows=2)).float()

    def _agrees_when_shared(self, usual: Tensor) -> bool:
        """Whether attention that shares the prefix gives the logits that the model's own gives."""
        self.shares_prefix = True
        try:
            shared = self._unpatched_logits()
        except Exception:  # of whatever kind: this family's attention is not one that `attend` can stand in for
            return False
        return bool((shared - usual).norm() <= SAME_LOGITS[self.lm.dtype] * usual.norm())

    def _row_bytes(self, prefix_tokens: int) -> int:
        """Twice what a row needs at most: its keys and values, the prefix's copies among them, and its logits."""
        config = self.lm.model.config.get_text_config()
        kept = 2 * self.lm.num_layers * max(self.lm.width, getattr(config, "head_dim", 0) or 0)
        return 2 * 4 * (kept * (prefix_tokens + self.room) + 2 * config.vocab_size)


def _until_stop(tokens: list[int], stop_tokens: set[int]) -> list[int]:
    end = next((i for i, token in enumerate(tokens) if token in stop_tokens), len(tokens))
    return tokens[:end]
