"""Read given vectors: the plans that a request means, beside what chance would give, and the table of what to believe."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from .. import ROOT, InputError
from ..engine.given import evaluate
from ..engine.mapping import fit_map, through_map
from ..judging.criteria import DECIMALS, choose
from ..judging.judge import Judge
from ..models.load import LanguageModel, ModelCard, load_model, read_model
from ..models.readers import Published, open_reader
from ..models.vector_files import VectorFile, digest_of
from ..words.components import GENTLE_GRID, GIVEN, OUTPUT, WAYS, Site, into
from ..words.files import check_writable, in_repository, slug, write_atomically
from ..words.grammar import parse_layers
from ..words.prompts import read_prompts
from ..words.settings import SourceOptions
from ..words.target import TargetPrompt
from ..words.vectors import (
    MOST_ROWS,
    NO_LAYER,
    NOTHING,
    FileSource,
    Through,
    Vector,
    VectorPlan,
    VectorSettings,
    make_vector_plan,
    of_expressions,
    random_like,
)
from .results import FIRST_ITEM
from .sweep import sweep

WORKED_OUT = ROOT / "runs" / "vectors"  # numbers of expressions that another model reads
HELD_OUT = 5  # every fifth of a map's prompts
CRITERION = "agreement_amplifiers"
OF_VECTOR = ["source prompt", "layer"]
SHOWN = [*OF_VECTOR, "target layer", "token", "amplification value", "result", FIRST_ITEM, "status"]
WORD = r"\w\w"  # what a reading that says something has at least
RANDOM = r"^random \d+"  # how the name of a random direction begins
LONGEST_NAME = 40  # letters of a file's name that is made from an expression


class Request:
    """What a request for vectors means: the vectors, looked up and checked, and the plans that read them.

    Args:
        most: how many vectors there may be.
        card: of the model that reads; found by `reading` if left out and needed.
        source: the model that the vectors are of, if it is another one and at hand; loaded if it is needed.

    Attributes:
        reading: the settings with the model that reads: an oracle's has its adapter, a verbalizer is one itself.
        reader: a published reader, or None.
        vectors: in order.
        plans: of the vectors; of the random directions beside them, if any; and of nothing patched.

    Raises:
        InputError: names the parameter, what was given and what is allowed.
    """

    def __init__(
        self,
        asked: VectorSettings,
        most: int = MOST_ROWS,
        card: ModelCard | None = None,
        source: LanguageModel | None = None,
    ):
        asked.check()
        self.asked, self.width, self._card, self._source = asked, 0, card, source
        self.reader = open_reader(asked.reader) if asked.reader else None
        self.reading, self.through = _reading(asked, self.reader), self.reader.through if self.reader else None
        if self.reader:
            self.reader.check(self.card)
        if asked.mapped_from and asked.map:
            self.through = self._map()
        self.vectors = self._looked_up()
        if len(self.vectors) > most:
            raise InputError("vectors", f"{len(self.vectors):,}", f"at most {most:,} here")
        if asked.mapped_from and not asked.map and self.width != self.card.width:
            why = f"the vectors have {self.width} numbers, {self.card.name} a width of {self.card.width}: say where a map is or goes"
            raise InputError("map", "", why)
        self.plans = [plan for part in self._parts() for plan in self._plans(part)]

    @property
    def card(self) -> ModelCard:
        """Return what is known of the model that reads."""
        if self._card is None:
            self._card = read_model(self.reading.model, **self.reading.source_options.changed)
        return self._card

    @property
    def is_of_another_model(self) -> bool:
        """Tell whether expressions are worked out in another model than the one that reads."""
        return bool(self.asked.mapped_from) or (self.reader is not None and self.reader.kind != "selfie")

    @cached_property
    def source(self) -> LanguageModel:
        """Load the model that the vectors are of: `mapped_from`; of an oracle, and a verbalizer, `model`."""
        asked, mapped, lm = self.asked, self.asked.mapped_from, self._source
        if mapped or lm is None:
            options = {} if mapped else asked.source_options.changed
            lm = load_model(mapped or asked.model, asked.dtype, asked.device, **options)
        if self.reader and (lm.width, lm.num_layers) != (self.card.width, self.card.num_layers):
            why = f"made for a model of {self.card.num_layers} layers and a width of {self.card.width}; {lm.name} has {lm.num_layers} and {lm.width}"
            raise InputError("reader", asked.reader, why)
        return lm

    @property
    def are_alike(self) -> bool:
        """Tell whether each vector needs random directions of its own: as long as it, or for the layer that it is of.

        In the other ways a vector's length plays no part, and the same directions are chance for all.
        """
        if self.reader:
            return self.reader.kind == "oracle" or (self.reader.kind == "selfie" and not self.through.normalizes)
        return self.asked.way == "plain" or self.through is not None or "same" in self.asked.target_layer

    @property
    def target_layers(self) -> tuple[int | str, ...]:
        """Return where vectors are put."""
        if self.reader:
            return (self.reader.target_layer,)
        return (self._about_map["target_layer"],) if self.through else self.asked.target_layer

    @property
    def way(self) -> str:
        return self.reader.way if self.reader else self.asked.way

    @property
    def name(self) -> str:
        """Return what the CSV is called, without its ending."""
        if self.asked.name:
            return slug(self.asked.name)
        if self.asked.is_file:
            return slug(self.asked.file.stem)
        short = "-".join(re.findall(r"[a-z0-9]+", self.asked.vectors.lower()))[:LONGEST_NAME].strip("-")
        return f"{short}-{hashlib.sha256(self.asked.vectors.encode()).hexdigest()[:4]}"

    @property
    def map_found(self) -> str:
        """Say how well a map holds, or "" without one."""
        if not (self.through and self.through.kind == "map"):
            return ""
        about = self._about_map
        return (
            f"map: fitted on {about['prompts']} prompts; on {about['held_out']} others R² {about['r2']:.2f}, cosine "
            f"{about['cosine']:.2f} with the true vector, {about['cosine_of_others']:.2f} with those of other prompts"
        )

    # What is read

    def _parts(self) -> list[tuple[list[Vector], str | tuple[int, ...]]]:
        """Return the vectors and their source layers by what one plan can read: an oracle is told a single layer."""
        if not (self.reader and self.reader.kind == "oracle"):
            return [(self.vectors, self._layers)]
        if homeless := [vector.name for vector in self.vectors if vector.layer == NO_LAYER]:
            raise InputError("layer", "", f"{homeless[0]!r} is of no layer, and an activation oracle is told one: say layer=…")
        layers = dict.fromkeys(vector.layer for vector in self.vectors)
        return [([vector for vector in self.vectors if vector.layer == layer], (layer,)) for layer in layers]

    def _plans(self, part: tuple[list[Vector], str | tuple[int, ...]]) -> list[VectorPlan]:
        asked, reader, (vectors, layers) = self.asked, self.reader, part
        component = GIVEN if self.way == "plain" else f"{self.way}[{GIVEN}]"
        grid = (reader.amplifier,) if reader else WAYS[asked.way].grid or GENTLE_GRID
        if reader:
            target_prompt = reader.target_prompt(self.card, layers[0] if reader.kind == "oracle" else 0, asked.question, asked.placeholders)
        else:
            target_prompt = TargetPrompt.of_text(asked.target_prompt)
        is_length_given = reader is None or "max_new_tokens" in asked.model_fields_set
        shared = {
            "layers": layers, "target_prompt": target_prompt, "amplifiers": asked.amplifiers or grid,
            "max_new_tokens": asked.max_new_tokens if is_length_given else reader.max_new_tokens,
            "target_component": reader.target_component if reader else OUTPUT, "stop_at_item": asked.stop_at_item,
        }  # fmt: skip
        targets = self.target_layers
        plans = [make_vector_plan(vectors, component, target_layer=targets, width=self.width, through=self.through, **shared)]
        if asked.random:
            drawn = random_like(vectors if self.are_alike else [None], asked.random, asked.seed)
            plans.append(make_vector_plan(drawn, component, target_layer=targets, through=self.through, **shared))
        at = reader.target_layer if reader else 0
        return [*plans, make_vector_plan([NOTHING], "none", target_layer=at, **shared)]

    @property
    def _layers(self) -> str | tuple[int, ...]:
        """Return the source layers of expressions: those asked for, or those that a reader or a map is of."""
        if "layers" in self.asked.model_fields_set:
            return self.asked.layers
        if self.through and self.through.kind == "map":
            return (self._about_map["source_layer"],)
        return (self.reader.layer,) if self.reader and self.reader.layer is not None else self.asked.layers

    def _looked_up(self) -> list[Vector]:
        asked = self.asked
        if not asked.is_file:
            found = of_expressions(asked.vectors, asked.component, asked.may_read_files)
            return self._worked_out(found) if self.is_of_another_model else found
        file = VectorFile(asked.file)
        self.width = file.width
        layer = asked.layer
        if layer == "" and self.reader and self.reader.layer is not None:
            layer = self.reader.layer
        return file.vectors(asked.rows, asked.names, layer)

    def _worked_out(self, vectors: Sequence[Vector]) -> list[Vector]:
        """Work expressions out in the model that they are of, and keep their numbers in a file that the plans read."""
        from safetensors.torch import save

        card = self.source
        plan = make_vector_plan(vectors, layers=self._layers)
        plan.items(card)  # layers and tokens that the model doesn't have
        layers, numbers, found = parse_layers(self._layers, card.num_layers), [], []
        for vector in vectors:
            of_layers = evaluate(card, vector.origin)
            for layer in layers if vector.layer is None else [vector.layer]:
                numbers.append(of_layers[max(layer, 0)])
                found.append((vector, layer))
        content = save({"vectors": torch.stack(numbers)})
        file = WORKED_OUT / f"{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            with write_atomically(file, "wb") as opened:
                opened.write(content)
        self.width, origin, several = card.width, FileSource(str(file)), len({layer for _, layer in found}) > 1
        return [
            Vector(
                f"{vector.name}, layer {layer}" if several and layer != NO_LAYER else vector.name, vector.token, row, layer,
                digest_of(one), origin,
            )
            for row, ((vector, layer), one) in enumerate(zip(found, numbers, strict=True))
        ]  # fmt: skip

    # A map between models

    @cached_property
    def _about_map(self) -> dict:
        return json.loads(self.through.about)

    def _map(self) -> Through:
        """Open the map, fitted first if it isn't there, and check that it is between these models."""
        asked = self.asked
        if not in_repository(asked.map).is_file():
            self._fit()
        found = through_map(asked.map)
        about = json.loads(found.about)
        of = self.source if "source" in vars(self) else read_model(asked.mapped_from)
        for parameter, card, wanted in (("mapped_from", of, about["source"]), ("model", self.card, about["target"])):
            if card.source.fingerprint() != wanted:
                raise InputError(parameter, card.name, f"{asked.map} was fitted on the model with the fingerprint {wanted}")
        into = about["target_layer"]
        if "target_layer" in asked.model_fields_set and asked.target_layer != (into,):
            raise InputError("target_layer", asked.target_layer, f"{asked.map} leads into layer {into}")
        layer = about["source_layer"]
        if "layers" in asked.model_fields_set and parse_layers(asked.layers, of.num_layers) != [layer]:
            raise InputError("layers", asked.layers, f"{asked.map} is of layer {layer}")
        if not asked.is_file and about["source_component"] != asked.component:
            raise InputError("component", asked.component, f"{asked.map} is of {about['source_component']}")
        return found

    def _fit(self) -> None:
        asked = self.asked
        if "same" in asked.target_layer or len(asked.target_layer) > 1:
            raise InputError("target_layer", asked.target_layer, "a map leads into one layer: say its number")
        layers = parse_layers(asked.layers, read_model(asked.mapped_from).num_layers)
        if len(layers) > 1:
            raise InputError("layers", asked.layers, "a map is of one layer: say which, to fit it")
        prompts = read_prompts(asked.map_prompts, parameter="map_prompts")
        held_out = prompts[HELD_OUT - 1 :: HELD_OUT]
        check_writable(in_repository(asked.map).parent, "map")
        target = self.card if isinstance(self.card, LanguageModel) else load_model(asked.model, asked.dtype, asked.device, **asked.source_options.changed)
        fitted = [prompt for prompt in prompts if prompt not in set(held_out)]
        sites = Site(asked.component, layers[0]), Site("hidden_state", asked.target_layer[0])
        fit_map(self.source, target, fitted, held_out, *sites).save(in_repository(asked.map))


def _reading(asked: VectorSettings, reader: Published | None) -> VectorSettings:
    """Return the settings with the model that reads: with an oracle's adapter, or a verbalizer itself."""
    if reader is None or reader.kind == "selfie":
        return asked
    if asked.source_options.adapter:
        raise InputError("adapter", asked.source_options.adapter, "can't be combined with a reader that has weights of its own")
    if reader.kind == "oracle":
        options = asked.source_options.changed | {"adapter": str(in_repository(reader.path))}
        return asked.model_copy(update={"source_options": SourceOptions.of(options)})
    return asked.model_copy(update={"model": str(in_repository(reader.path)), "source_options": SourceOptions()})


def read(
    lm: LanguageModel,
    vectors: str | Path | Sequence[str],
    progress: Callable[[int, int], None] | None = None,
    judge: Judge | None = None,
    **settings,
) -> pd.DataFrame:
    """Read given vectors, random directions beside them, and what the model writes when nothing is patched.

    Args:
        lm: the model that reads; with an oracle or a verbalizer as `reader`, the one that expressions are of.
        vectors: a file of vectors, or an expression or several; see `words.expressions` and docs/any-vector.md.
        progress: called after each batch with (rows done, rows in all).
        judge: the paper's if left out.
        settings: names, rows, tensor, layer, component, layers, way ("norm"), amplifiers, target_layer (0), random (20),
            reader, mapped_from, map, …: see `words.vectors.VectorSettings`.

    Returns:
        A row per reading in the row schema; `source prompt` is a vector's name. `believed` makes a table of them, a row
        per vector. `.attrs` says what made it.

    Raises:
        InputError: names the parameter, what was given and what is allowed.
    """
    own = {"model": lm.name, "source_options": lm.source.options, "dtype": lm.dtype}
    asked = VectorSettings.of(own | settings | {"vectors": vectors})
    request = Request(asked, card=None if asked.reader else lm, source=lm)
    reading, reads = request.reading, lm
    if reading is not asked:
        reads = load_model(reading.model, lm.dtype, reading.device, **reading.source_options.changed)
    rows = sweep(reads, request.plans, batch_size=asked.batch_size or None, progress=progress, judge=judge)
    rows.attrs["settings"] = asked.shown()
    return rows


def believed(rows: pd.DataFrame, judge: Judge | None = None) -> pd.DataFrame:
    """Return one reading per vector, source layer and target layer, chosen blind, beside what chance would give.

    Of a vector's readings the one that agrees most with those at its other amplifiers is believed. How much it does so,
    less how much it agrees with the readings of random directions, is its `contrast`: words that a model writes of
    anything have none. The random directions go through the same choice.

    Args:
        rows: of `read`.

    Returns:
        The chosen rows' `source prompt`, `layer`, `target layer`, `token`, `amplification value`, `result`, and `reading`, its
        first item;
        `agreement`, the mean cosine with the vector's other readings;
        `contrast`, the same less the mean cosine with the readings of random directions;
        `random as high`, of how many random directions the contrast is at least as high, of `random`;
        `highest random`, the highest contrast of them; `chance`, (`random as high` + 1) / (`random` + 1);
        `like the others`, the mean cosine with the readings believed of the other vectors;
        `like nothing`, the cosine with what the model writes when nothing is patched.
        `status`, blank where no reading has a word. Numbers are empty where there is nothing to compare with: a single amplifier, no random directions, a single vector.
    """
    judge = judge or Judge()
    nothing, rows = rows[rows["component"] == "none"], rows[rows["component"] != "none"]
    is_blank = (rows["status"] == "ok") & ~rows[FIRST_ITEM].str.contains(WORD)
    rows = rows.assign(status=rows["status"].mask(is_blank, "blank"))  # it says nothing: agreeing in that is no sign
    if rows.groupby([*OF_VECTOR, "target layer"])["amplification value"].nunique().max() > 1:
        words_first = rows.sort_values("status", key=lambda status: status != "ok", kind="stable")  # where none agrees
        chosen = choose(words_first, CRITERION, judge)
    else:
        chosen = rows.assign(**{CRITERION: np.nan})
    texts = sorted({*rows[FIRST_ITEM], *nothing[FIRST_ITEM]})
    embedded = dict(zip(texts, judge.embedded(texts), strict=True))
    own, chance, found = chosen[~_is_random(chosen)], {}, []
    for _, row in own.iterrows():
        pool, rivals = _random_beside(rows, row), _random_beside(chosen, row)
        pool = pool[pool["status"] == "ok"]
        key = tuple(rivals.index)
        if key not in chance:  # it is the same for many vectors
            chance[key] = np.array([_contrast(rival, pool, embedded) for _, rival in rivals.iterrows()])
        contrast = _contrast(row, pool, embedded)
        compared = 0 if np.isnan(contrast) else int((~np.isnan(chance[key])).sum())
        as_high = int((chance[key] >= contrast).sum())
        others = own[(own["source prompt"] != row["source prompt"]) & (own["status"] == "ok")]
        is_ok = row["status"] == "ok"
        found.append({
            "agreement": row[CRITERION], "contrast": contrast, "random as high": as_high if compared else pd.NA,
            "random": compared, "highest random": np.nanmax(chance[key]) if compared else np.nan,
            "chance": (as_high + 1) / (compared + 1) if compared else np.nan,
            "like the others": _mean_cosine(row, others, embedded) if is_ok else np.nan,
            "like nothing": _mean_cosine(row, nothing, embedded) if is_ok else np.nan,
        })  # fmt: skip
    numbers = pd.DataFrame(found, index=own.index).astype({"random as high": "Int64"}).round(DECIMALS)
    table = own[SHOWN].rename(columns={FIRST_ITEM: "reading"}).join(numbers).reset_index(drop=True)
    table.attrs = rows.attrs
    return table


def highest(table: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return at most so many lines of a table of `believed`, in its order: those with the highest contrast."""
    return table.loc[sorted(table["contrast"].sort_values(ascending=False, kind="stable").index[:most])]


def explained(asked: VectorSettings, table: pd.DataFrame, rows: pd.DataFrame) -> list[str]:
    """Return what the columns of `believed` mean, and what the model writes of nothing, in lines."""
    read = rows[rows["component"] != "none"]
    way, bracket, _ = read["component"].iloc[0].partition("[")
    at = {"same"} if "same" in asked.target_layer else dict.fromkeys(read["target layer"])
    target = "in place of its embedding" if (read["target component"] == "embedding").all() else " and ".join(map(into, at))
    lines = [
        f"Put at the placeholder, {target}: {WAYS[way if bracket else 'plain'].formula}. Of each vector the reading that agrees most with "
        "those at its other amplifiers.",
    ]
    if asked.random and table["random"].any():
        lines.append(
            "contrast: how much it agrees with them, less how much with the readings of random directions; random: how "
            "many of those have a contrast as high, chosen in the same way."
        )
    for nothing in dict.fromkeys(rows.loc[rows["component"] == "none", FIRST_ITEM]):
        lines.append(f"nothing: how much it is like what the model writes when nothing is patched, “{nothing}”.")
    return lines


def _random_beside(rows: pd.DataFrame, vector: pd.Series) -> pd.DataFrame:
    """Return the rows of the random directions that a vector is compared with: its own, or those that are for all."""
    rows = rows[_is_random(rows) & (rows["target layer"] == vector["target layer"])]
    like = rows["source prompt"].str.replace(RANDOM, "", n=1, regex=True)
    return rows[(like == "") | ((like == f" like {vector['source prompt']}") & (rows["layer"] == vector["layer"]))]


def _is_random(rows: pd.DataFrame) -> pd.Series:
    """Tell the rows of random directions, by how `words.vectors.random_like` names them; a given vector may be called so, too."""
    return (rows["token"] == "random") & rows["source prompt"].str.contains(rf"{RANDOM}(?:$| like )", regex=True)


def _contrast(row: pd.Series, pool: pd.DataFrame, embedded: dict[str, np.ndarray]) -> float:
    """Return how much more a reading agrees with its vector's than with those of other vectors of a pool."""
    if row["status"] != "ok":
        return np.nan
    others = pool[pool["source prompt"] != row["source prompt"]]
    return round(row[CRITERION] - _mean_cosine(row, others, embedded), DECIMALS)


def _mean_cosine(row: pd.Series, others: pd.DataFrame, embedded: dict[str, np.ndarray]) -> float:
    text = embedded[row[FIRST_ITEM]]
    return float(np.mean([text @ embedded[other] for other in others[FIRST_ITEM]])) if len(others) else np.nan
