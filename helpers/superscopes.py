"""The method in three calls: interpret vectors, run a plan batch by batch, sweep a grid and score it."""

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor

from . import InputError
from .activations import Sources
from .batches import Failures, check_batch_size, find_batch_size, in_parts, in_words, is_out_of_memory, timed
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
READING_COLUMNS = ("result", "rho", "status", "message")  # what is read; the others are the plan's, or scores
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
        one row alone failed or ran out of memory.

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
    failures = Failures()
    for start in range(0, len(vectors), size):
        some = [given[start : start + size] for given in (vectors, layers, seeds)]

        def work(part: slice, some=some) -> list[tuple]:
            own, at, drawn = (given[part] for given in some)
            return [_row(*read) for read in zip(*_continue(prompt, own, at, decoding, drawn), strict=True)]

        texts += [text for text, *_ in _all_rows(work, len(some[0]), lm.device, failures)[0]]
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
        batch_size: rows at a time; found once, here, if left out. A batch that fails is done in halves, so that a
            row's failure is its own; the next one is whole again.
        progress: called after each batch with (rows done, rows in all).
        fused: compile the model's blocks first; if left out, where the plan is long enough to pay for it
            (helpers/fused.py).
        done: ids of rows that are there already; a batch of nothing else is passed over.
        prompt: the plan's target prompt as an earlier run has read it; read now if left out.

    Yields:
        Rows in the row schema, their scores still empty.

    Raises:
        InputError: at the call, before anything is computed, if the plan doesn't fit the model.
        SameFailures: many rows in a row failed in the same way.
    """
    reader = Reader(lm, plan, batch_size, fused, prompt)

    def batches():
        for start in reader.starts:
            batch = reader.items_of(start)
            if not all(id in done for id in batch["id"]):
                yield reader.read(start)
            if progress:
                progress(start + len(batch), len(reader.items))

    return batches()


class Reader:
    """A plan on a model, ready to be read: any of its batches, in any order.

    Attributes:
        items: the plan's rows without their readings, with ids.
        size: rows of a batch.

    Args:
        As of `run`.
    """

    def __init__(
        self,
        lm: LanguageModel,
        plan: Plan,
        batch_size: int | None = None,
        fused: bool | None = None,
        prompt: PatchedPrompt | None = None,
    ):
        check_batch_size(batch_size)
        self._plan = plan
        self.items = plan.items(lm)
        self.items["id"] = plan.ids(self.items, lm)
        if not (prompt and prompt.is_of(lm, plan.target_prompt, plan.max_new_tokens)):
            prompt = PatchedPrompt(lm, plan.target_prompt, plan.max_new_tokens)
        self._prompt, self._sources, self._failures = prompt, Sources(lm, plan.prompts), Failures()
        self.size = _prepare(prompt, len(self.items), batch_size, fused)

    @property
    def starts(self) -> range:
        """Where each batch begins."""
        return range(0, len(self.items), self.size)

    def items_of(self, start: int) -> pd.DataFrame:
        """The items of the batch that begins there."""
        return self.items.iloc[start : start + self.size]

    def read(self, start: int) -> pd.DataFrame:
        """One batch of rows, their scores still empty; `.attrs` says how it was made."""
        items = self.items_of(start)
        readings, parts = self._read(items)
        rows = with_readings(items, readings)
        rows.attrs = {
            "parts": parts, "batch_size": self.size, "shares_prefix": self._prompt.shares_prefix,
            "fused": bool(self._prompt.fused_rows), "device": self._prompt.lm.device.type,
        }  # fmt: skip
        return rows

    def _read(self, items: pd.DataFrame) -> tuple[list[tuple], int]:
        prompt = self._prompt

        def work(part: slice) -> list[tuple]:
            some = items.iloc[part]
            vectors = _amplified_vectors(prompt, self._sources, self._plan, some)
            layers = torch.tensor(some["target layer"].array)
            seeds = [as_seed(f"{self._plan.seed} {id}") for id in some["id"]]
            texts, finite = _continue(prompt, vectors, layers, self._plan.decoding, seeds)
            rho = [float(f"{one:.4g}") for one in (vectors.norm(dim=-1) / prompt.placeholder_norms[layers]).tolist()]
            return [_row(*reading) for reading in zip(texts, finite, rho, strict=True)]

        return _all_rows(work, len(items), prompt.lm.device, self._failures)


def with_readings(items: pd.DataFrame, readings: Sequence[tuple]) -> pd.DataFrame:
    """Items with their readings, (result, rho, status, message) each, in the row schema; scores are still empty."""
    rows = items.reindex(columns=ROW_COLUMNS).reset_index(drop=True)
    for name, values in zip(READING_COLUMNS, zip(*readings, strict=True), strict=True):
        rows[name] = values
    return rows


def _all_rows(
    work: Callable[[slice], list[tuple]], rows: int, device: torch.device, failures: Failures
) -> tuple[list[tuple], int]:
    """(result, rho, status, message) of each row, and in how many parts they could be made."""
    made, parts = [], 0
    for _, result, error in in_parts(work, rows, device, failures):
        parts += 1
        if error:
            status = "oom" if is_out_of_memory(error) else "error"
            made.append(("", math.nan, status, MESSAGES.get(status) or in_words(error)))
        else:
            made += result
    return made, parts


def _row(text: str, finite: bool, rho: float = math.nan) -> tuple[str, float, str, str]:
    status = "ok" if finite else "nonfinite"
    return text if finite else "", rho, status, MESSAGES[status]


def _continue(
    prompt: PatchedPrompt, vectors: Tensor, target_layers: Tensor, decoding: Sampling | None, seeds: Sequence[int]
) -> tuple[list[str], list[bool]]:
    """(rows,) texts, and whether their logits were finite."""
    tokens, finite = prompt.continue_from(vectors, target_layers, decoding, seeds)
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    return prompt.lm.tokenizer.batch_decode(tokens, **options), finite


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
    made = [batch.attrs for batch in batches]
    rows = pd.concat(batches, ignore_index=True)
    return assemble(rows, plans, describe(lm, *plans), made, time.monotonic() - started, batch_size is not None, gold)


def assemble(
    rows: pd.DataFrame,
    plans: Sequence[Plan],
    about: dict,
    made: Sequence[Mapping],
    seconds: float,
    size_given: bool,
    gold: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """All rows of some plans, scored; `.attrs` says what made them.

    Args:
        about: of `results.describe`.
        made: of each batch, how (`.attrs` of what `run` yields).
        seconds: that reading them took.
        size_given: whether the user chose the batch size; one that is found may be another the next time.
    """
    started = time.monotonic()
    rows = score(rows, plans[0].target_prompt, gold)
    in_parts = sum(batch["parts"] > 1 for batch in made)
    devices = sorted({batch["device"] for batch in made})
    ways = {tuple(batch[name] for name in ("batch_size", "fused", "shares_prefix")) for batch in made}
    one_way = size_given and not in_parts and len(ways) == 1
    failed = {"oom", "error"} & set(rows["status"])
    rows.attrs = {
        **about,
        **{name: made[0][name] for name in ("batch_size", "shares_prefix", "fused")},
        "batches_done_in_parts": in_parts,
        # else a batch's size shows in texts
        "same_bytes_again": (about["model"]["dtype"] == "float32" or one_way) and len(devices) == 1 and not failed,
        "seconds": {"run": round(seconds, 2), "score": round(time.monotonic() - started, 2)},
    }
    rows.attrs["machine"] = rows.attrs["machine"] | {"device": " and ".join(devices)}
    return rows
