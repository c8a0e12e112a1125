"""Run plans and score them in one call, as a table; make that table from readings; describe what made it."""

import hashlib
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from ..engine.interpret import run
from ..judging.judge import Judge
from ..judging.score import score
from ..models.load import LanguageModel
from ..models.sources import Source
from ..words.plans import METHOD_VERSION, Plan, make_plan
from ..words.rows import ITEM_COLUMNS, READING_COLUMNS, TRIED_AGAIN, Item, Reading
from ..words.settings import Record
from ..words.target import TargetPrompt
from .results import COLUMN_DTYPES, FIRST_ITEM

VERSIONS = ("torch", "transformers", "sentence-transformers", "pandas")  # that a text, a score or a CSV depends on


def sweep(
    lm: LanguageModel,
    prompts: Plan | Sequence[Plan] | str | Sequence[str],
    *settings,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    fused: bool | None = None,
    gold: Mapping[str, str] | None = None,
    judge: Judge | None = None,
    **more_settings,
) -> pd.DataFrame:
    """Run a plan (or several, one after another, or the one that `make_plan` makes of these arguments) and score it.

    Args:
        batch_size, fused: as in `engine.interpret.run`.
        progress: called after each batch with (rows done, rows in all).
        gold: source prompt -> a true short description, for the column `score gold`.
        judge: the paper's if left out.

    Returns:
        A row per interpretation in the row schema, with the in-memory column `first item`; `.attrs` says what made it
        (the CSV's JSON).
    """
    plans = [prompts] if isinstance(prompts, Plan) else prompts
    if not (plans and all(isinstance(plan, Plan) for plan in plans)):
        plans = [make_plan(prompts, *settings, **more_settings)]
    started = time.monotonic()
    items = [plan.items(lm, lm.identity) for plan in plans]
    before, total = 0, sum(map(len, items))
    tables, made = [], []
    for plan, some in zip(plans, items, strict=True):
        advance = progress and (lambda done, _, before=before: progress(before + done, total))
        batches = list(run(lm, plan, batch_size, advance, fused, items=some))
        tables.append(rows_of(some, [reading for batch in batches for reading in batch.readings], plan.target_prompt))
        made += [batch.made for batch in batches]
        before += len(some)
    rows = pd.concat(tables, ignore_index=True)
    seconds = time.monotonic() - started
    return assemble(rows, describe(lm, *plans), made, seconds, batch_size is not None, judge, gold)


def rows_of(
    items: Sequence[Item], readings: Sequence[Reading], target_prompt: TargetPrompt | None = None
) -> pd.DataFrame:
    """Return items with their readings in the row schema; scores are still empty.

    Args:
        items, readings: (rows,) each.
        target_prompt: whose `stop` ends an item of the in-memory column `first item`; the paper's if left out.
    """
    values = {name: [getattr(item, field) for item in items] for name, field in ITEM_COLUMNS.items()}
    values |= {name: [getattr(reading, field) for reading in readings] for name, field in READING_COLUMNS.items()}
    columns = {name: pd.array(values.get(name, [np.nan] * len(items)), dtype) for name, dtype in COLUMN_DTYPES.items()}
    first_item = (target_prompt or TargetPrompt()).first_item
    columns[FIRST_ITEM] = pd.array([first_item(reading.result) for reading in readings], "str")
    return pd.DataFrame(columns)


def assemble(
    rows: pd.DataFrame,
    about: dict,
    made: Sequence[Mapping],
    seconds: float,
    size_given: bool,
    judge: Judge | None = None,
    gold: Mapping[str, str] | None = None,
    settings: Record | None = None,
) -> pd.DataFrame:
    """Score all rows of some plans; `.attrs` says what made them.

    Args:
        rows: as `rows_of` makes them.
        about: of `describe`.
        made: of each batch, how (`engine.interpret.Batch`).
        seconds: that reading them took.
        size_given: whether the user chose the batch size; one that is found may differ the next time.
        judge, gold: see `sweep`.
        settings: of the experiment, if they are rows of one.
    """
    started, judge = time.monotonic(), judge or Judge()
    rows = score(rows, judge, gold)
    in_parts = sum(batch["parts"] > 1 for batch in made)
    devices = sorted({batch["device"] for batch in made})
    ways = {tuple(batch[name] for name in ("batch_size", "fused", "shares_prefix")) for batch in made}
    one_way = size_given and not in_parts and len(ways) == 1
    failed = set(TRIED_AGAIN) & set(rows["status"])
    attrs = {
        **about,
        "machine": about["machine"] | {"device": " and ".join(devices)},
        "judge": describe_judge(judge, gold, rows["source prompt"]),
        **{name: made[0][name] for name in ("batch_size", "shares_prefix", "fused")},
        "batches_done_in_parts": in_parts,
        # in another dtype, a batch's size may show in its texts
        "same_bytes_again": (about["model"]["dtype"] == "float32" or one_way) and len(devices) == 1 and not failed,
        "seconds": {"run": round(seconds, 2), "score": round(time.monotonic() - started, 2)},
    }
    if settings:
        attrs["settings"] = settings.shown()
    rows.attrs = json.loads(json.dumps(attrs))  # the same whether it was just made or read from a file
    return rows


def describe(lm: LanguageModel, *plans: Plan) -> dict:
    """Return what makes the results of plans on a model, and where they are made: the JSON beside a CSV."""
    import torch

    options = lm.source.options
    used = {"gguf": lm.source.gguf_file, "peft": options.adapter, "bitsandbytes": options.quantization}
    identity = lm.identity._asdict()
    name, fingerprint = identity.pop("name"), identity.pop("fingerprint")
    return {
        "method_version": METHOD_VERSION,
        "model": {
            "name": name,
            "fingerprint": fingerprint,
            **_describe_source(lm.source),
            "parameters": lm.model.num_parameters(),
            "layers": lm.num_layers,
            "width": lm.width,
            **identity,
        },
        **({"plan": plans[0].describe()} if len(plans) == 1 else {"plans": [plan.describe() for plan in plans]}),
        "machine": {"device": lm.device.type, "threads": torch.get_num_threads(), "python": platform.python_version()},
        "versions": {name: version(name) for name in (*VERSIONS, *(package for package, by in used.items() if by))},
    }


def describe_judge(judge: Judge, gold: Mapping[str, str] | None = None, prompts: Sequence[str] = ()) -> dict:
    """Return what scores depend on: the judge, and a digest of the prompts' descriptions ("" if there are none)."""
    known = sorted((prompt, gold[prompt]) for prompt in {*prompts} if prompt in (gold or {}))
    digest = hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16] if known else ""
    return {"name": judge.name, "fingerprint": judge.fingerprint, "gold": digest}


def _describe_source(source: Source) -> dict:
    """Return where a model's weights come from, and what was done to them."""
    from ..models.gguf import types_in
    from ..models.sources import digest_of_folder

    about = {"gguf_file": source.gguf_file}
    if source.gguf_file:
        about["weights"] = "dequantised"
        about["dequantised_from"] = types_in(source.folder / source.gguf_file)
    if source.commit:
        about["commit"] = source.commit
    options = dict(source.options.changed)
    if adapter := options.pop("adapter", ""):
        folder = Path(adapter).expanduser()
        about["adapter"] = {"name": folder.resolve().name, "fingerprint": digest_of_folder(folder)[:16]}
    return about | {name: value if isinstance(value, str | bool) else str(value) for name, value in options.items()}
