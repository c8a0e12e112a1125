"""The engine: read the target prompt up to its placeholder once, put α·v there, let the model write."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor
from transformers import DynamicCache

from . import InputError
from .attention import SharedPrefixCache, can_share, shared_prefix_attention
from .batches import is_out_of_memory
from .decoding import Sampling, greedy
from .fused import compile_blocks, fused
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
    own attention reads a copy for each row. For a long sweep the blocks can be compiled (`fuse`). The results are the
    same to the rounding: each is tried on this prompt, beside the model's own way, before it is used.

    Attributes:
        target_prompt: T.
        max_new_tokens: how many tokens a row may write.
        placeholder_states: (layers, width) float32 on the CPU, the placeholder's own hidden states h_{i*}^{ℓ*}.
        shares_prefix: whether attention reads the prefix once for all rows.
        fused_rows: batches of exactly so many rows run compiled; 0 for none.
        why_not: what kept the model from either, where something did.
    """

    @torch.inference_mode()
    def __init__(self, lm: LanguageModel, target_prompt: TargetPrompt, max_new_tokens: int):
        self.lm, self.target_prompt, self.max_new_tokens = lm, target_prompt, max_new_tokens
        ids = torch.tensor([lm.token_ids(target_prompt.text)], device=lm.device)
        position = locate("placeholder", target_prompt.placeholder, target_prompt.text, lm)
        self.tail = ids[:, position:]  # the placeholder and what follows it
        self.room = self.tail.shape[1] + max_new_tokens - 1  # tokens that a row adds to the cache
        self.prefix = DynamicCache(config=lm.model.config)
        if position:
            lm.model(ids[:, :position], past_key_values=self.prefix, logits_to_keep=1)
        self.shares_prefix, self.fused_rows, self.why_not = False, 0, ""
        self._room_made: SharedPrefixCache | None = None  # kept from batch to batch
        with record(dict(enumerate(lm.blocks))) as hidden_states:
            logits = self._trial(rows=2, passes=1)
            self.placeholder_states = torch.stack([h[0, 0].float().cpu() for h in hidden_states.values()])
        if lm.model._is_stateful or lm.source.options.trust_remote_code:  # may not go on where it was left
            whole = lm.model(ids, logits_to_keep=1).logits[:, -1].float()
            if _difference(whole, logits[:1]) > SAME_LOGITS[lm.dtype]:
                why = f"{lm.model.config.model_type} can't be read up to the placeholder and go on from there"
                raise InputError("model", lm.name, why)
        if can_share(lm.model, self.prefix, self.room):
            usual = self._trial(rows=2, passes=2)
            self.shares_prefix = True
            if not self._agrees(usual, rows=2):
                self.shares_prefix, self._room_made = False, None

    def is_of(self, lm: LanguageModel, target_prompt: TargetPrompt, max_new_tokens: int) -> bool:
        """Whether it was made of just these."""
        return self.lm is lm and (self.target_prompt, self.max_new_tokens) == (target_prompt, max_new_tokens)

    @torch.inference_mode()
    def fuse(self, rows: int) -> bool:
        """Compile the blocks for batches of exactly so many rows; False, and nothing changed, where that can't be."""
        if not self.shares_prefix:
            return False
        usual = self._trial(rows, passes=3)
        try:
            self._forwards = compile_blocks(self.lm.blocks)
        except RuntimeError as error:  # also for a Python that torch.compile doesn't know yet
            self.why_not = str(error)
            return False
        self.fused_rows = rows
        if not self._agrees(usual, rows):
            self.fused_rows = 0
        return bool(self.fused_rows)

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
            (rows,) lists of token ids, cut at end-of-sequence; (rows,) whether the largest logits were finite.
        """
        rows = len(vectors)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds] if decoding else None
        stop_tokens = torch.tensor(sorted(self.lm.stop_tokens), dtype=torch.long, device=self.lm.device)

        with self._way(rows):
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
        return [until_stop(tokens, self.lm.stop_tokens) for tokens in texts], finite.tolist()

    @contextmanager
    def _way(self, rows: int) -> Iterator[None]:
        """The way that a batch of so many rows runs: as the model does, sharing the prefix, or compiled as well."""
        with ExitStack() as way:
            if self.shares_prefix:
                way.enter_context(shared_prefix_attention(self.lm.model))
            if rows == self.fused_rows:
                way.enter_context(fused(self.lm.blocks, self._forwards))
            yield

    def _after_prefix(self, rows: int) -> DynamicCache | SharedPrefixCache:
        """A cache in which so many rows have read the prefix."""
        if self.shares_prefix:
            dtype = self.lm.model.dtype if rows == self.fused_rows else torch.float32
            if self._room_made is None or self._room_made.made_for != (rows, dtype):
                self._room_made = None  # freed before new room is made
                self._room_made = SharedPrefixCache(self.prefix, rows, self.room, dtype)
            self._room_made.forget_rows()
            return self._room_made
        cache = copy.deepcopy(self.prefix)
        cache.reorder_cache(torch.zeros(rows, dtype=torch.long, device=self.lm.device))  # its one row, so many times
        return cache

    def _next_logits(self, ids: Tensor, cache: DynamicCache | SharedPrefixCache) -> Tensor:
        """(rows, vocabulary) logits after `ids` (rows, tokens), which join the cache."""
        if not self.shares_prefix:
            return self.lm.model(ids, past_key_values=cache, logits_to_keep=1).logits[:, -1]
        logits = self.lm.model(ids, past_key_values=cache, logits_to_keep=1, shared_prefix=cache).logits[:, -1]
        cache.own_tokens += ids.shape[1]
        return logits

    def _trial(self, rows: int, passes: int) -> Tensor:
        """(rows, vocabulary) logits after the unpatched prompt and some more tokens, other ones in every other row."""
        ids = self.tail.expand(rows, -1)
        more = self.tail[:, -1:] + torch.arange(rows, device=ids.device)[:, None] % 2
        with self._way(rows):
            cache = self._after_prefix(rows)
            for _ in range(min(passes, self.max_new_tokens)):
                logits, ids = self._next_logits(ids, cache), more
        return logits.float()

    def _agrees(self, usual: Tensor, rows: int) -> bool:
        """Whether the way that is now set gives the logits of the usual one, in each row, apart from a common offset."""
        try:
            logits = self._trial(rows, passes=3 if self.fused_rows else 2)
        except Exception as error:  # of whatever kind: a family or a machine that this way is not for
            if is_out_of_memory(error):
                raise
            self.why_not = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            return False
        difference = _difference(usual, logits)
        agrees = difference <= SAME_LOGITS[self.lm.dtype]
        self.why_not = "" if agrees else f"logits differ by {difference:.1e}"
        return agrees

    @property
    def placeholder_norms(self) -> Tensor:
        """(layers,) float32."""
        return torch.stack([state.norm() for state in self.placeholder_states])

    @property
    def row_bytes(self) -> int:
        """Memory that a row needs: twice its keys and values and its logits in float32, for what is made on the way."""
        layers = [layer for layer in self.prefix.layers if getattr(layer, "keys", None) is not None]
        kept = sum(layer.keys[0, :, 0].numel() + layer.values[0, :, 0].numel() for layer in layers)  # of one token
        kept = kept or 2 * self.lm.num_layers * self.lm.width
        tokens = self.room + (0 if self.shares_prefix else self.prefix.get_seq_length())
        return 2 * 4 * (kept * tokens + 2 * self.lm.config.get_text_config().vocab_size)


def _difference(usual: Tensor, logits: Tensor) -> float:
    """The largest relative difference of (rows, vocabulary) logits in any row, apart from a common offset."""
    usual, logits = (some - some.mean(-1, keepdim=True) for some in (usual, logits))
    return ((logits - usual).norm(dim=-1) / usual.norm(dim=-1)).max().item()


def until_stop(tokens: list[int], stop_tokens: set[int]) -> list[int]:
    """The tokens before the first one that ends a text."""
    end = next((i for i, token in enumerate(tokens) if token in stop_tokens), len(tokens))
    return tokens[:end]
