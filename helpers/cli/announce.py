"""Before anything is computed: check the settings against the model, and say how many rows and minutes there will be."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..experiments import get
from ..words.settings import Record

if TYPE_CHECKING:
    import torch

    from ..models.load import ModelCard
    from ..words.plans import Plan

MODEL_SECONDS = 10  # to import the libraries and load the model
NOTEBOOK_SECONDS = 6  # of a notebook: its kernel, imports and figure, while another runs beside it


def announce(settings: Mapping[str, Record], folder: Path, new: bool) -> str:
    """Check the settings of some experiments against the model, and print rows and minutes.

    Args:
        settings: of each experiment.
        folder: of the results; what was read before counts as there, unless `new`.

    Returns:
        The model's fingerprint, where its weights are here already (of a hub model whose weights are fetched later,
        its revision); "" if no experiment reads from a model.

    Raises:
        InputError: also where an earlier run has left readings with other settings, unfinished.
    """
    asked = {name: get(name).plans(given) for name, given in settings.items()}  # before the slow imports
    plans = {name: some for name, some in asked.items() if some}
    readers = {name: settings[name] for name in plans}
    if not readers:
        return ""
    print("checking the settings against the model …", flush=True)
    from ..models.load import check_hardware, read_model

    for given in readers.values():
        device = check_hardware(given.dtype, given.device)
    card = read_model(given.model, **given.source_options.changed)
    rows = {name: sum(len(plan.items(card)) for plan in some) for name, some in plans.items()}
    try:
        fingerprint = card.source.fingerprint()
    except OSError:  # a hub model, fetched later, known by its name and revision
        fingerprint = ""
    there = 0 if new or not fingerprint else _rows_there(readers, plans, card, fingerprint, folder)
    seconds = (sum(rows.values()) - there) * _seconds_per_row(card, given.dtype, device, given.max_new_tokens)
    minutes = (seconds + MODEL_SECONDS + NOTEBOOK_SECONDS * len(settings)) / 60
    parts = " + ".join(f"{count:,} {_short(name)}" for name, count in rows.items())
    total = f" = {sum(rows.values()):,}" if len(rows) > 2 else ""
    done = f" ({there:,} of them are there)" if there else ""
    about = f"about {max(1, round(minutes))} min on this {device.type}"
    print(f"{card.slug}: {parts}{total} interpretations{done}, {about}", flush=True)
    return card.source.commit or fingerprint


def _short(name: str) -> str:
    return get(name).TABLE.partition(".")[0]


def _rows_there(
    readers: Mapping[str, Record], plans: Mapping[str, list[Plan]], card: ModelCard, fingerprint: str, folder: Path
) -> int:
    """Count the rows that earlier runs have read.

    Raises:
        InputError: they have left others, unfinished.
    """
    from ..runs import ledger
    from ..words.rows import Identity

    there = 0
    for name, some in plans.items():
        place = ledger.run_folder(folder) / _short(name)
        if begun := ledger.ledgers(place):
            attention = ledger.header_of(begun[0])["model"]["attention"]  # known for sure once the model is loaded
            identity = Identity(card.slug, fingerprint, readers[name].dtype, attention)
            head = ledger.header(some, [plan.items(card, identity) for plan in some], identity)
            there += ledger.rows_in(ledger.find(place, head))
    return there


def _seconds_per_row(card: ModelCard, dtype: str, device: torch.device, max_new_tokens: int) -> float:
    """Estimate a row's time: twice that of its matrix products, from a short measurement of this machine."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        code = card.source.options.trust_remote_code
        weights = AutoModelForCausalLM.from_config(card.config, trust_remote_code=code).num_parameters()
    width = max(card.width, 512)  # what a narrower product takes says little of the machine
    a = torch.ones(256, width, dtype=getattr(torch, dtype), device=device)
    b = torch.ones(width, 4 * width, dtype=getattr(torch, dtype), device=device)
    times = []
    for _ in range(8):
        started = time.perf_counter()
        (a @ b).sum().item()
        times.append(time.perf_counter() - started)
    per_product = min(times) / (len(a) * b.numel())  # seconds per row and weight
    return 2 * per_product * weights * max_new_tokens
