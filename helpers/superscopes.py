"""The method: read the target prompt up to its placeholder once, put α·v there, let the model write."""

import copy
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
import psutil
import torch
from torch import Tensor
from transformers import DynamicCache

from . import InputError
from .activations import Sources, capture
from .decoding import Sampling
from .hooks import patch
from .models import LanguageModel
from .plans import Plan, TargetPrompt, locate, make_plan
from .results import describe
from .scoring import score

MAX_BATCH_SIZE = 256  # rows; more gains nothing on two CPU cores (benchmarks/)
ROW_COLUMNS = (
    "source prompt", "token", "layer", "amplification value", "result", "component", "position", "target layer",
    "target prompt", "seed", "rho", "score", "score first item", "score gold", "status", "message", "id",
)  # fmt: skip


class PatchedPrompt:
    """A target prompt read up to its placeholder, to be continued from any vectors.

    Two interpretations with the same target prompt differ only from the placeholder on: in a causal model nothing
    before it can see the patch. So the prefix runs once, and its key-value cache is shared by all rows; each row
    costs the placeholder, what follows it in the prompt (nothing, in the paper's), and its new tokens.

    Attributes:
        placeholder_norms: (layers,) float32, norm of the placeholder's own hidden state h_{i*}^{ℓ*}.
    """

    @torch.inference_mode()
    def __init__(self, lm: LanguageModel, target_prompt: TargetPrompt):
        self.lm = lm
        ids = torch.tensor([lm.token_ids(target_prompt.text)], device=lm.device)
        position = locate("placeholder", target_prompt.placeholder, target_prompt.text, lm)
        self.tail = ids[:, position:]  # the placeholder and what follows it
        self.prefix = DynamicCache(config=lm.model.config)
        if position:
            lm.model(ids[:, :position], past_key_values=self.prefix, logits_to_keep=1)
        self.placeholder_norms = capture(lm, target_prompt.text).hidden_state[:, position].float().norm(dim=-1).cpu()
        cached = [layer for layer in self.prefix.layers if layer.is_initialized]
        cache_bytes = sum(layer.keys.nbytes + layer.values.nbytes for layer in cached)
        self.row_bytes = 4 * cache_bytes + 16 * lm.model.config.get_text_config().vocab_size  # generous

    @torch.inference_mode()
    def continue_from(
        self,
        vectors: Tensor,
        target_layers: Tensor,
        max_new_tokens: int,
        decoding: Sampling | None = None,
        seeds: Sequence[int] | None = None,
    ) -> tuple[list[list[int]], list[bool]]:
        """New tokens of one batch.

        Args:
            vectors: (rows, width) float32, already amplified.
            target_layers: (rows,) int64, the block ℓ* that each row is patched at.
            seeds: (rows,), one generator each, so that a row's draws don't depend on its batch.

        Returns:
            (rows,) lists of token ids, cut at end-of-sequence; (rows,) whether all logits were finite.
        """
        rows = len(vectors)
        cache = copy.deepcopy(self.prefix)
        for layer in cache.layers:
            if layer.is_initialized:  # views of one prefix: the first new token makes them rows of their own
                layer.keys, layer.values = layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds] if decoding else None
        stop_tokens = torch.tensor(sorted(self.lm.stop_tokens), dtype=torch.long, device=self.lm.device)

        with patch(self.lm.blocks, target_layers, vectors, position=0):  # the only pass that is patched
            logits = self._next_logits(self.tail.expand(rows, -1), cache)
        new_tokens, ended, finite = [], False, True
        for step in range(max_new_tokens):
            if step:
                logits = self._next_logits(new_tokens[-1][:, None], cache)
            chosen = logits.argmax(-1)  # of logits with a NaN, the NaN
            usable = logits.gather(1, chosen[:, None]).squeeze(1).isfinite()
            if decoding:
                chosen = torch.where(usable, decoding.choose(logits, generators), chosen)
            finite = finite & (usable | ended)
            new_tokens.append(chosen)
            ended = ended | torch.isin(chosen, stop_tokens)
            if ended.all():
                break
        texts = torch.stack(new_tokens, 1).tolist()
        return [_until_stop(tokens, self.lm.stop_tokens) for tokens in texts], finite.tolist()

    def _next_logits(self, ids: Tensor, cache: DynamicCache) -> Tensor:
        """(rows, vocabulary) float32 logits after `ids` (rows, tokens), which join the cache."""
        return self.lm.model(ids, past_key_values=cache, logits_to_keep=1).logits[:, -1].float()


def interpret(
    lm: LanguageModel,
    vectors: Tensor,
    target_layers: int | Sequence[int],
    target_prompt: TargetPrompt | None = None,
    max_new_tokens: int = 10,
    batch_size: int | None = None,
    decoding: Sampling | None = None,
    seeds: Sequence[int] | None = None,
) -> list[str]:
    """What the model writes when each vector stands in place of the target prompt's placeholder (paper §3).

    Args:
        vectors: (n, width), already amplified.
        target_layers: the block ℓ* whose output is overwritten: one for all, or (n,).
        target_prompt: T; the paper's if left out.
        batch_size: rows at a time; chosen by memory if left out. Never changes a text in float32.
        decoding: None is greedy.
        seeds: (n,) for sampling; 0 … n−1 if left out.

    Returns:
        (n,) continuations without special tokens, cut at end-of-sequence; "" where logits were not finite.

    Raises:
        InputError: shapes or layers that this model doesn't have.
    """
    if vectors.dim() != 2 or vectors.shape[1] != lm.width:
        raise InputError("vectors", tuple(vectors.shape), f"expected shape (n, {lm.width})")
    layers = torch.as_tensor(target_layers)
    layers = layers.expand(len(vectors)) if layers.dim() == 0 else layers
    if layers.shape != (len(vectors),) or not ((0 <= layers) & (layers < lm.num_layers)).all():
        raise InputError(
            "target_layers", target_layers, f"expected one layer of 0–{lm.num_layers - 1}, or one a vector"
        )
    prompt = PatchedPrompt(lm, target_prompt or TargetPrompt())
    size = _batch_size(batch_size, prompt)
    seeds = range(len(vectors)) if seeds is None else seeds
    texts = []
    for start in range(0, len(vectors), size):
        batch = slice(start, start + size)
        tokens, finite = prompt.continue_from(vectors[batch], layers[batch], max_new_tokens, decoding, seeds[batch])
        texts += _decode(lm, tokens, finite)
    return texts


def run(
    lm: LanguageModel,
    plan: Plan,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[pd.DataFrame]:
    """Carry out a plan, batch by batch, in its order: the only loop that patches and generates.

    Batches are cut from the plan, so that any of them can be computed alone, with the same result; memory is bounded
    by `batch_size`, not by the length of the plan.

    Args:
        batch_size: rows at a time; chosen once, here, if left out.
        progress: called after each batch with (rows done, rows in all).

    Yields:
        Rows in the row schema, their scores still empty.

    Raises:
        InputError: at the call, before anything is computed, if the plan doesn't fit the model.
    """
    items = plan.items(lm)
    items["id"] = plan.ids(items, lm)
    prompt = PatchedPrompt(lm, plan.target_prompt)
    sources = Sources(lm, plan.prompts)
    size = _batch_size(batch_size, prompt)

    def batches():
        for start in range(0, len(items), size):
            rows = _run_batch(prompt, sources, plan, items.iloc[start : start + size])
            rows.attrs["batch_size"] = size
            yield rows
            if progress:
                progress(start + len(rows), len(items))

    return batches()


def _run_batch(prompt: PatchedPrompt, sources: Sources, plan: Plan, items: pd.DataFrame) -> pd.DataFrame:
    lm = prompt.lm
    amplifiers = torch.tensor(items["amplification value"].array, dtype=torch.float32)
    vectors = amplifiers[:, None] * _source_vectors(sources, items)  # α·v
    target_layers = torch.tensor(items["target layer"].array)
    seeds = [int(hashlib.sha256(f"{plan.seed} {id}".encode()).hexdigest()[:15], 16) for id in items["id"]]
    tokens, finite = prompt.continue_from(vectors, target_layers, plan.max_new_tokens, plan.decoding, seeds)

    rows = items.reindex(columns=ROW_COLUMNS)
    rows["result"] = _decode(lm, tokens, finite)
    rho = vectors.norm(dim=-1) / prompt.placeholder_norms[target_layers]
    rows["rho"] = [float(f"{value:.4g}") for value in rho.tolist()]
    rows["status"] = np.where(finite, "ok", "nonfinite")
    rows["message"] = np.where(finite, "", "logits are not finite: the amplified vector is out of the dtype's range")
    return rows


def _source_vectors(sources: Sources, items: pd.DataFrame) -> Tensor:
    """(rows, width) float32 on the CPU: the vector that each item inspects, not amplified."""
    columns = (items[column] for column in ("source prompt", "component", "layer", "position"))
    places = zip(*columns, strict=True)
    vectors = [sources[prompt][component][layer, position] for prompt, component, layer, position in places]
    return torch.stack(vectors).float().cpu()


def sweep(
    lm: LanguageModel,
    prompts: Plan | str | Sequence[str],
    *settings,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **more_settings,
) -> pd.DataFrame:
    """Run a plan (or the one that `make_plan` makes of these arguments) and score it.

    Returns:
        A row per interpretation in the row schema; `.attrs` says what made it (the CSV's JSON).
    """
    plan = prompts if isinstance(prompts, Plan) else make_plan(prompts, *settings, **more_settings)
    started = time.monotonic()
    batches = list(run(lm, plan, batch_size, progress))
    generated = time.monotonic()
    rows = score(pd.concat(batches, ignore_index=True), plan.target_prompt)
    rows.attrs = {
        **describe(lm, plan),
        "batch_size": batches[0].attrs["batch_size"],
        "seconds": {"run": round(generated - started, 1), "score": round(time.monotonic() - generated, 1)},
    }
    return rows


def check_batch_size(batch_size: int | None) -> None:
    """Raises InputError unless it is a whole number, at least 1, or None."""
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise InputError("batch_size", batch_size, "expected a whole number, at least 1, or None to choose by memory")


def _batch_size(given: int | None, prompt: PatchedPrompt) -> int:
    """Rows at a time: as given, or what fits in a quarter of the free memory, at most MAX_BATCH_SIZE."""
    check_batch_size(given)
    cuda = prompt.lm.device.type == "cuda"
    free = torch.cuda.mem_get_info(prompt.lm.device)[0] if cuda else psutil.virtual_memory().available
    return given or max(1, min(MAX_BATCH_SIZE, free // 4 // prompt.row_bytes))


def _until_stop(tokens: list[int], stop_tokens: set[int]) -> list[int]:
    end = next((i for i, token in enumerate(tokens) if token in stop_tokens), len(tokens))
    return tokens[:end]


def _decode(lm: LanguageModel, tokens: list[list[int]], finite: list[bool]) -> list[str]:
    texts = lm.tokenizer.batch_decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [text if good else "" for text, good in zip(texts, finite, strict=True)]
