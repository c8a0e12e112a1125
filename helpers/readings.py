"""A model's readings: made now and kept, or taken from earlier results where they would come out the same."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import pandas as pd

from . import ROOT
from .models import LanguageModel, ModelCard, load_model, read_model
from .plans import Plan
from .results import json_of, read_results, results_folder, save_results
from .scoring import judge_fingerprint, score
from .superscopes import sweep


@dataclass(frozen=True)
class Readings:
    """One model and its folder of results; the model's weights are loaded when a reading is missing.

    Attributes:
        model, dtype, device, source_options: of `models.load_model`.
        out_dir: where results go; empty is data/<model>/.
        reuse: a folder of earlier results to take readings from; empty makes all.
        batch_size: rows at a time; None finds a good number.
        bar: tqdm, or what draws progress like it.
    """

    model: str
    dtype: str = "float32"
    device: str = "auto"
    out_dir: str | Path = ""
    reuse: str | Path = ""
    batch_size: int | None = None
    bar: Callable | None = None
    source_options: Mapping[str, object] = field(default_factory=dict)

    @cached_property
    def folder(self) -> Path:
        return results_folder(self.model, self.out_dir, **self.source_options)

    @cached_property
    def card(self) -> ModelCard:
        return read_model(self.model, **self.source_options)

    @cached_property
    def lm(self) -> LanguageModel:
        return load_model(self.model, self.dtype, self.device, **self.source_options)

    def of(self, name: str, plans: Sequence[Plan], gold: Mapping[str, str] | None = None) -> pd.DataFrame:
        """The rows of some plans, in order, scored; they are in `folder`/<name>.csv.gz afterwards.

        A file in `reuse` is taken if its ids are those of the plans on this model and dtype: whatever could change a
        text is in an id, apart from the libraries' versions, which its JSON keeps. Scores are computed anew.
        """
        file = self.folder / f"{name}.csv.gz"
        rows = self._the_same(ROOT / Path(self.reuse).expanduser() / file.name, plans, gold) if self.reuse else None
        if rows is None:
            if self.bar:
                with self.bar(total=sum(len(plan.items(self.lm)) for plan in plans), unit="row", desc=name) as bar:
                    rows = sweep(
                        self.lm, plans, batch_size=self.batch_size, gold=gold,
                        progress=lambda done, total: bar.update(done - bar.n),
                    )  # fmt: skip
            else:
                rows = sweep(self.lm, plans, batch_size=self.batch_size, gold=gold)
        save_results(rows, file)
        return rows

    def _the_same(self, file: Path, plans: Sequence[Plan], gold: Mapping[str, str] | None) -> pd.DataFrame | None:
        """The rows of a file, scored again, if they are those that the plans would give."""
        if not (file.is_file() and json_of(file).is_file()):
            return None
        about = json.loads(json_of(file).read_text(encoding="utf-8"))
        if about["model"]["dtype"] != self.dtype or set(about["status"]) != {"ok"}:
            return None
        self.card.source.fetch_weights()
        made_by = SimpleNamespace(
            fingerprint=self.card.source.fingerprint(), dtype=self.dtype, attention=about["model"]["attention"]
        )
        rows = read_results(file)
        if rows["id"].tolist() != [one for plan in plans for one in plan.ids(plan.items(self.card), made_by)]:
            return None
        rows = score(rows.assign(seed=rows["seed"].astype("Int64")), plans[0].target_prompt, gold)
        rows.attrs = {key: value for key, value in about.items() if key not in ("rows", "status")}
        rows.attrs["judge"]["fingerprint"] = judge_fingerprint()
        return rows
