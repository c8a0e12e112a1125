"""Measure a benchmark: ask the model itself, read the vectors, count the answers with and without a vector."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from .. import InputError
from ..engine.plain import in_plain_text
from ..judging.criteria import choose, criteria_of
from ..runs.plain import plain_texts
from ..words.files import in_repository
from ..words.grammar import parse_layers
from ..words.plans import Plan, make_plan
from . import tables
from .settings import USABLE, BenchSettings
from .tables import ANY, CONTINUATION, MEAN, NO_LAYER, TEXT_ONLY, Cases, Texts
from .tasks import Task, spread, too_few, usable

if TYPE_CHECKING:
    from ..lenses.jacobian import Lens
    from ..models.load import ModelCard
    from ..runs.readings import Readings


FIRST = (1, 10)  # of a lens' words


class Asked(NamedTuple):
    """A task after the model was asked itself.

    Attributes:
        task: with the cases that are read.
        cases: how many cases the file has.
        asked, answered: of those that were asked, how many the model answers itself; 0 where it isn't asked.
    """

    task: Task
    cases: int
    asked: int
    answered: int


class Found(NamedTuple):
    """What a benchmark shows.

    Attributes:
        name: of the benchmark.
        model: whose readings.
        table: a line per task, method and source layer: task, rows, units, method, layer (a number, "mean" or "any";
            empty for what has no vector), tries, and the columns of `effects.beside_chance`.
        gains: per task and method, any layer and the mean of layers: how much more is found than by text only, over
            chance, as of `Cases.gain`.
        asked: of each task: rows (in the file), asked, answered, left out (reason -> count).
        refused: why tasks have no numbers, a sentence each.
        criteria: by which a reading is chosen blind; several, if a task has too few rows for the usual one.
        failed: readings that failed.
        texts_of_lens: over how many the Jacobian lens is a mean; None without one.
    """

    name: str
    model: str
    table: pd.DataFrame
    gains: pd.DataFrame
    asked: dict[str, dict]
    refused: list[str]
    criteria: list[str]
    failed: int
    texts_of_lens: int | None = None


def read_tasks(bench: ModuleType, settings: BenchSettings, card: ModelCard) -> list[Task]:
    """Read a benchmark's files, and check that they can be read with the settings; no weights are needed.

    Raises:
        InputError: a folder, a file or a setting.
    """
    if 1 not in settings.amplifiers:
        raise InputError("amplifiers", list(settings.amplifiers), "expected 1 among them: the plain reading")
    if settings.jacobian and not in_repository(settings.jacobian).is_file():
        raise InputError("jacobian", settings.jacobian, "no such file; ./runme.sh lens fit MODEL makes one")
    found = bench.tasks(settings.folder_of(bench.NAME), settings, card)
    for plan in plans_of(found, settings):
        plan.items(card)
    for task in found:
        in_plain_text(card, [], task.asks)
    return found


def plans_of(tasks: Sequence[Task], settings: BenchSettings) -> list[Plan]:
    """Return a plan for each target prompt of some tasks: their source prompts' last tokens."""
    of_prompt: dict = {}
    for task in tasks:
        of_prompt.setdefault(task.asks, {}).update(dict.fromkeys(case.source for case in task.cases))
    return [
        make_plan(
            list(sources), settings.component, settings.layers, settings.amplifiers, -1, settings.target_layers, asks,
            settings.max_new_tokens,
        )
        for asks, sources in of_prompt.items()
    ]  # fmt: skip


def ask(tasks: Sequence[Task], bench: ModuleType, readings: Readings) -> tuple[list[Asked], list[str]]:
    """Ask the model each task's questions itself, and keep the cases that are read.

    Returns:
        The tasks that have enough cases; why the others have not.
    """
    settings, kept, refused = readings.settings, [], []
    questions = {}
    for task in tasks:
        some = dict.fromkeys(case.question for case in spread(task.cases) if case.question)
        questions[task.name] = list(some)[: settings.num_asked or None]
    every = [question for some in questions.values() for question in some]
    answers = plain_texts(readings, every, settings.max_new_tokens) if every else {}
    for task in tasks:
        right, asked = usable(task, {question: answers[question] for question in questions[task.name]}, bench.RULE)
        cases = right if settings.rows == USABLE else list(task.cases)
        some = spread(cases, settings.num_rows)
        why = too_few(task, cases, asked)
        if not why and not Cases(some, bench.RULE, bench.COMBINE).allowed.any():
            why = f"{task.name}: left out; all its usable rows have the same answer, so that there is no chance"
        if why:
            refused.append(why)
            continue
        has_questions = bool(questions[task.name])
        about = (asked, len(right)) if has_questions else (0, 0)
        kept.append(Asked(task._replace(cases=tuple(some)), len(task.cases), *about))
    return kept, refused


def lenses_of(
    task: Task, cases: Cases, readings: Readings, layers: Sequence[int], jacobian: Lens | None
) -> dict[str, np.ndarray]:
    """Tell which words are among a lens' first k, where each word is a single token: name -> (cases, layers, words)."""
    import torch

    from ..engine.references import last_tokens
    from ..lenses.logit import ranks

    settings, lm = readings.settings, readings.lm
    of = last_tokens(lm, list(dict.fromkeys(case.source for case in task.cases)))
    vectors = torch.stack([of[case.source][settings.component][layer, -1] for case in task.cases for layer in layers])
    of_lens = {"logit lens": vectors}
    if jacobian:
        of_lens["Jacobian lens"] = jacobian.carried(vectors, list(layers) * len(task.cases), lm.num_layers - 1)
    found = {}
    for name, carried in of_lens.items():
        rank = ranks(lm, carried, cases.words).numpy().reshape(len(task.cases), len(layers), -1)
        found |= {f"{name}, first {k}": (0 < rank) & (rank <= k) for k in FIRST}
    return found


def jacobian_of(readings: Readings, layers: Sequence[int]) -> Lens | None:
    """Return the model's Jacobian lens: the one that is named, or the one that was fitted, if one was.

    Raises:
        InputError: as `fitted_lens`; or it doesn't have all of the layers.
    """
    import torch

    from ..lenses.jacobian import fitted_lens

    lm = readings.lm
    if lens := fitted_lens(lm, readings.settings.jacobian):
        lens.carried(torch.zeros(len(layers), lm.width), layers, lm.num_layers - 1)  # has it all layers?
    return lens


def measure(bench: ModuleType, readings: Readings) -> Found:
    """Measure a benchmark on a model.

    Args:
        readings: with the settings of the benchmark; its folder keeps the texts.

    Raises:
        InputError: no task has enough usable rows, or as `read_tasks`.
        Stopped: by a signal; the same call continues.
    """
    settings = readings.settings
    kept, refused = ask(read_tasks(bench, settings, readings.card), bench, readings)
    if not kept:
        raise InputError(bench.NAME, getattr(settings, bench.NAME), "; ".join(refused))
    tasks = [asked.task for asked in kept]
    layers = parse_layers(settings.layers, readings.card.num_layers)
    jacobian = jacobian_of(readings, layers) if bench.BY_LENS else None
    plans = plans_of(tasks, settings)
    with_text = {
        task.name: in_plain_text(readings.card, [case.plain for case in task.cases], task.asks) for task in tasks
    }
    sources = {task.name: [case.source for case in task.cases] for task in tasks}
    every = [text for some in (with_text, sources) for texts in some.values() for text in texts]
    written = plain_texts(readings, every, settings.max_new_tokens)
    rows = readings.of(f"bench_{bench.NAME}.csv.gz", plans)
    blind, criteria = _chosen_blind(rows, readings)
    texts, lines, gains = Texts(rows, blind), [], []
    for task in tasks:
        cases = Cases(task.cases, bench.RULE, bench.COMBINE)
        controls = {
            TEXT_ONLY: cases.said([written[text] for text in with_text[task.name]]),
            CONTINUATION: cases.said([written[text] for text in sources[task.name]]),
        }
        found = [cases.line(name, NO_LAYER, 1, said) for name, said in controls.items()]
        for name, (way, number) in tables.reading_methods(settings.target_layers).items():
            said = texts.found(cases, task.asks.name, way, layers, settings.target_layers[:number])
            found += tables.by_source_layer(cases, name, said, layers, number)
            for layer, of in ((MEAN, said), (ANY, said.any(1))):
                than = controls[TEXT_ONLY] if of.ndim == 2 else controls[TEXT_ONLY][:, None]
                gains.append({"task": task.name, "method": name, "layer": layer} | cases.gain(of, than))
        for name, by_lens in (lenses_of(task, cases, readings, layers, jacobian) if bench.BY_LENS else {}).items():
            found += tables.by_source_layer(cases, name, by_lens, layers, 1)
        lines += [{"task": task.name} | line for line in found]
    asked = {
        one.task.name: {"rows": one.cases, "asked": one.asked, "answered": one.answered, "left out": one.task.left_out}
        for one in kept
    }
    return Found(
        bench.NAME, readings.card.slug, pd.DataFrame(lines), pd.DataFrame(gains), asked, refused, criteria,
        int((rows["status"] != "ok").sum()), jacobian.n_prompts if jacobian else None,
    )  # fmt: skip


def _chosen_blind(rows: pd.DataFrame, readings: Readings) -> tuple[pd.DataFrame, list[str]]:
    """Choose one amplifier's reading of each vector and target layer, without its task's answers.

    Returns:
        The chosen rows, and the criteria; readings of the same target prompt are compared with each other.
    """
    chosen, criteria = [], {}
    for _, some in rows.groupby("target prompt", sort=False):
        criterion = next(iter(criteria_of(some)))
        criteria[criterion] = None
        chosen.append(choose(some, criterion, readings.judge))
    return pd.concat(chosen), list(criteria)
