"""The method in three calls: interpret vectors, run a plan batch by batch, sweep a grid and score it."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor

from . import InputError
from .activations import Sources
from .batches import check_batch_size, find_batch_size, in_parts, timed
from .components import as_seed, parse_component
from .decoding import Sampling
from .engine import PatchedPrompt
from .fused import FROM_ROWS
from .models import LanguageModel
from .plans import Plan, TargetPrompt, make_plan
from .results import describe
from .scoring import score

ROW_COLUMNS = (
    "source prompt", "token", "layer", "amplification value", "result", "component", "position", "target layer",
    "target prompt", "seed", "rho", "score", "score first item", "score gold", "status", "message", "id",
)  # fmt: skip
MESSAGES = {  # of a row's status
    "ok": "",
    "nonfinite": "logits are not finite: the amplified vector is out of the dtype's range",
    "oom": "out of memory, also alone",
}


def interpret(
    lm: LanguageModel,
    vectors: Tensor,
    target_layers: int | Sequence[int],
    target_prompt: TargetPrompt | None = None,
    max_new_tokens: int = 10,
    batch_size: int | None = None,
    decoding: Sampling | None = None,
    seeds: Sequence[int] | None = None,
    fused: bool | None = None,
) -> list[str]:
    """What the model writes when each vector stands in place of the target prompt's placeholder (paper §3).

    Args:
        vectors: (n, width), already amplified.
        target_layers: the block ℓ* whose output is overwritten: one for all, or (n,).
        target_prompt: T; the paper's if left out.
        batch_size: rows at a time; found by memory and a short measurement if left out. Never changes a text in
            float32.
        decoding: None is greedy.
        seeds: (n,) for sampling; 0 … n−1 if left out.
        fused: compile the model's blocks first; if left out, where n is large enough to pay for it (helpers/fused.py).

    Returns:
        (n,) continuations without special tokens, cut at end-of-sequence; "" where logits were not finite, or where
        one row alone ran out of memory.

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
    check_batch_size(batch_size)
    prompt = PatchedPrompt(lm, target_prompt or TargetPrompt(), max_new_tokens)
    size = _prepare(prompt, len(vectors), batch_size, fused)
    seeds = range(len(vectors)) if seeds is None else seeds
    texts = []
    for start in range(0, len(vectors), size):
        batch = slice(start, start + size)
        texts += _interpret_batch(prompt, vectors[batch], layers[batch], decoding, seeds[batch])[0]
    return texts


def run(
    lm: LanguageModel,
    plan: Plan,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    fused: bool | None = None,
    done: Collection[str] = (),
    prompt: PatchedPrompt | None = None,
) -> Iterator[pd.DataFrame]:
    """Carry out a plan, batch by batch, in its order: the only loop that patches and generates.

    Batches are cut from the plan, so that any of them can be computed alone, with the same result; memory is bounded
    by `batch_size`, not by the length of the plan.

    Args:
        batch_size: rows at a time; found once, here, if left out. A batch that runs out of memory is done in
            halves; the next one is whole again.
        progress: called after each batch with (rows done, rows in all).
        fused: compile the model's blocks first; if left out, where the plan is long enough to pay for it
            (helpers/fused.py).
        done: ids of rows that are there already; a batch of nothing else is passed over.
        prompt: the plan's target prompt as an earlier run has read it; read now if left out.

    Yields:
        Rows in the row schema, their scores still empty.

    Raises:
        InputError: at the call, before anything is computed, if the plan doesn't fit the model.
    """
    check_batch_size(batch_size)
    items = plan.items(lm)
    items["id"] = plan.ids(items, lm)
    if not (prompt and prompt.is_of(lm, plan.target_prompt, plan.max_new_tokens)):
        prompt = PatchedPrompt(lm, plan.target_prompt, plan.max_new_tokens)
    sources = Sources(lm, plan.prompts)
    size = _prepare(prompt, len(items), batch_size, fused)

    def batches():
        for start in range(0, len(items), size):
            batch = items.iloc[start : start + size]
            if not all(id in done for id in batch["id"]):
                rows = _run_batch(prompt, sources, plan, batch)
                rows.attrs |= {
                    "batch_size": size, "shares_prefix": prompt.shares_prefix, "fused": bool(prompt.fused_rows),
                }  # fmt: skip
                yield rows
            if progress:
                progress(start + len(batch), len(items))

    return batches()


def _run_batch(prompt: PatchedPrompt, sources: Sources, plan: Plan, items: pd.DataFrame) -> pd.DataFrame:
    vectors = _amplified_vectors(prompt, sources, plan, items)
    target_layers = torch.tensor(items["target layer"].array)
    seeds = [as_seed(f"{plan.seed} {id}") for id in items["id"]]
    texts, statuses, parts = _interpret_batch(prompt, vectors, target_layers, plan.decoding, seeds)

    rows = items.reindex(columns=ROW_COLUMNS)
    rows["result"] = texts
    rho = vectors.norm(dim=-1) / prompt.placeholder_norms[target_layers]
    rows["rho"] = [float(f"{value:.4g}") for value in rho.tolist()]
    rows["status"] = statuses
    rows["message"] = [MESSAGES[status] for status in statuses]
    rows.attrs["parts"] = parts
    return rows


def _interpret_batch(
    prompt: PatchedPrompt, vectors: Tensor, target_layers: Tensor, decoding: Sampling | None, seeds: Sequence[int]
) -> tuple[list[str], list[str], int]:
    """(rows,) texts, (rows,) statuses, and in how many parts memory let them be made."""
    tokenizer, texts, statuses, parts = prompt.lm.tokenizer, [], [], 0

    def work(part: slice):
        return prompt.continue_from(vectors[part], target_layers[part], decoding, seeds[part])

    for _, result in in_parts(work, len(vectors), prompt.lm.device):
        tokens, finite = result or ([[]], [False])
        parts += 1
        written = tokenizer.batch_decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        texts += [text if good else "" for text, good in zip(written, finite, strict=True)]
        statuses += ["oom" if result is None else "ok" if good else "nonfinite" for good in finite]
    return texts, statuses, parts


def find_size(prompt: PatchedPrompt, rows: int) -> int:
    """A batch size for so many rows, by memory and by the time of one pass over zero vectors."""
    lm = prompt.lm

    def one_pass(size: int) -> float:
        vectors, layers = torch.zeros(size, lm.width), torch.zeros(size, dtype=torch.long)
        return timed(lambda: prompt.continue_from(vectors, layers, max_new_tokens=1), lm.device)

    return find_batch_size(rows, prompt.row_bytes, lm.device, one_pass)


def _prepare(prompt: PatchedPrompt, rows: int, batch_size: int | None, fused: bool | None) -> int:
    """The batch size; the blocks are compiled for it if that is asked for, or pays."""
    size = batch_size or find_size(prompt, rows)
    pays = rows >= FROM_ROWS and prompt.lm.device.type == "cpu"  # where it was measured
    if (pays if fused is None else fused) and not prompt.fuse(size) and fused:
        raise InputError("fused", fused, f"this model can't be compiled here ({prompt.why_not or 'no shared prefix'})")
    return size


def _amplified_vectors(prompt: PatchedPrompt, sources: Sources, plan: Plan, items: pd.DataFrame) -> Tensor:
    """(rows, width) float32 on the CPU: α·v of each item."""
    columns = ("component", "source prompt", "position", "layer", "target layer", "amplification value")
    vectors, amplifiers = [], []
    for name, source, position, layer, target, amplifier in zip(*(items[column] for column in columns), strict=True):
        component = parse_component(name)
        key = f"{plan.seed} {component.of} {source} {position} {layer}"
        own = prompt.placeholder_states[target]
        vectors.append(component.vector(sources[source], layer, position, amplifier, key, own))
        amplifiers.append(amplifier if component.is_amplified else 1.0)
    return torch.tensor(amplifiers, dtype=torch.float32)[:, None] * torch.stack(vectors)


def sweep(
    lm: LanguageModel,
    prompts: Plan | Sequence[Plan] | str | Sequence[str],
    *settings,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    fused: bool | None = None,
    gold: Mapping[str, str] | None = None,
    **more_settings,
) -> pd.DataFrame:
    """Run a plan (or several, one after another, or the one that `make_plan` makes of these arguments) and score it.

    Args:
        gold: source prompt -> a true short description, for the column `score gold`.

    Returns:
        A row per interpretation in the row schema; `.attrs` says what made it (the CSV's JSON).
    """
    plans = [prompts] if isinstance(prompts, Plan) else prompts
    if not all(isinstance(plan, Plan) for plan in plans):
        plans = [make_plan(prompts, *settings, **more_settings)]
    started = time.monotonic()
    rows_of = [len(plan.items(lm)) for plan in plans] if progress else []
    batches = []
    for number, plan in enumerate(plans):
        before, total = sum(rows_of[:number]), sum(rows_of)
        told = progress and (lambda done, _, before=before, total=total: progress(before + done, total))
        batches += run(lm, plan, batch_size, told, fused)
    generated = time.monotonic()
    rows = score(pd.concat(batches, ignore_index=True), plans[0].target_prompt, gold)
    in_parts = sum(batch.attrs["parts"] > 1 for batch in batches)
    fixed = lm.dtype == "float32" or (batch_size is not None and not in_parts)  # else a batch's size shows in texts
    rows.attrs = {
        **describe(lm, *plans),
        **{name: batches[0].attrs[name] for name in ("batch_size", "shares_prefix", "fused")},
        "batches_done_in_parts": in_parts,
        "same_bytes_again": fixed and "oom" not in set(rows["status"]),
        "seconds": {"run": round(generated - started, 2), "score": round(time.monotonic() - generated, 2)},
    }
    return rows
