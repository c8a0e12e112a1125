"""Given vectors, those of no prompt's token: rows of a file, expressions, and random ones to compare them with.

They are a plan's sources in place of prompts. All else is a plan's: target layers, amplifiers, ids, ledger, rows. In a
row, `source prompt` is the vector's stable name, `token` says what it is, `position` is its row in the file, and `layer`
is −1 if it is of no layer.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

from .. import InputError
from . import grammar
from .components import COMPOSED, GIVEN, NORM_GRID, READ_ONCE, parse_component
from .expressions import Expression, Weight, parse_all
from .files import in_repository
from .grammar import check_layer, check_strings, listed, read_list, read_number
from .labels import check_component
from .plans import Plan, locate, make_plan
from .rows import Item
from .settings import (
    STOP_AT_ITEM,
    Count,
    FilePath,
    Flag,
    Form,
    Layers,
    MaybeAmplifiers,
    Positive,
    ReadSettings,
    Seed,
    String,
    TargetLayers,
    TargetText,
    setting,
)

NO_LAYER = -1  # the column `layer` of a vector that is of none
MOST_ROWS = 1_000_000
ROWS = re.compile(r"\s*(\d{1,12})\s*(?:-\s*(\d{1,12})\s*)?")  # of a file, the last one included
SUFFIXES = (".safetensors", ".npy", ".npz", ".gguf", ".csv", ".parquet", ".pt", ".pth", ".bin")
FORMATS = "a .safetensors, .npy, .npz, .gguf, .csv, .parquet or .pt file, or a folder of an SAE"
WAYS = ("norm", "norm_add", "plain")  # of those in `components.WAYS`
FIXED = ("way", "target_layer", "target_prompt")  # what a published reader says itself


class FileSource(NamedTuple):
    """A file of vectors: where it is and which of its parts are the vectors.

    Attributes:
        path: of a file or an SAE's folder.
        tensor: the tensor's or the column's name; "" where there is no choice.
        allow_pickle: whether a .pt file may be read.
    """

    path: str
    tensor: str = ""
    allow_pickle: bool = False

    @property
    def stem(self) -> str:
        path = Path(self.path)
        return path.name if os.path.isdir(in_repository(path)) else path.stem


class Through(NamedTuple):
    """What a file does to vectors before they are put in place, those that they are compared with included.

    Attributes:
        kind: "reader", the adapter of one (`models.readers`), or "map", between two models (`engine.mapping`).
        path: of the file.
        key: a digest of it, part of each id.
        takes, gives: the widths of vectors before and after.
        about: what the file says of itself, as JSON.
        normalizes: whether a vector's length plays no part.
    """

    kind: str
    path: str
    key: str
    takes: int
    gives: int
    about: str
    normalizes: bool = False


class RandomLike(NamedTuple):
    """A random direction, as long as a vector in the layer asked; of length 1 where it is like none.

    Attributes:
        number: tells it from others of the same seed.
        seed: of the draw.
        like: whose length it has.
    """

    number: int
    seed: int
    like: "Vector | None" = None


class Vector(NamedTuple):
    """A given vector.

    Attributes:
        name: in the column `source prompt`, one of a kind in its plan: file:row, or the expression.
        token: what it is, in the column `token`.
        position: its row in the file; 0 of others.
        layer: NO_LAYER for none; None if it is taken at each source layer that is asked for.
        key: a digest of its numbers, or of all that they depend on beside the model and the layer; part of the id.
        origin: where its numbers come from; None if there are none, for a plan that patches nothing.
    """

    name: str
    token: str
    position: int
    layer: int | None
    key: str
    origin: FileSource | Expression | RandomLike | None


@dataclass(frozen=True)
class VectorPlan(Plan):
    """A plan whose sources are given vectors; `make_vector_plan` makes and checks it.

    Attributes:
        vectors: in order; `prompts` are their names.
        width: of the vectors of a file; 0 where the model says it.
        through: what is done to them first.
    """

    vectors: tuple[Vector, ...] = ()
    width: int = 0
    through: Through | None = None

    def _sources(self, card, layers: Sequence[int]) -> Iterator[tuple[str, str, int, Sequence[int]]]:
        if self.through and self.through.gives != card.width:
            why = f"gives {self.through.gives} numbers; {card.name} has a width of {card.width}"
            raise InputError(self.through.kind, self.through.path, why)
        taken = self.through.takes if self.through else card.width
        if self.width and self.width != taken:
            by = f"{self.through.path} takes {taken}" if self.through else f"{card.name} has a width of {card.width}"
            raise InputError("vectors", self.vectors[0].name, f"{self.width} numbers; {by}")
        for vector in self.vectors:
            if isinstance(vector.origin, Expression):
                _check_expression(vector.origin, card)
            if vector.layer not in (None, NO_LAYER):
                check_layer("layer", vector.layer, card.num_layers)
            own = layers if vector.layer is None else (vector.layer,)
            yield vector.name, vector.token, vector.position, own

    def _in_id(self, item: Item) -> object:
        return [item.source_prompt, self._keys[item.source_prompt], *([self.through.key] if self.through else [])]

    @cached_property
    def _keys(self) -> dict[str, str]:
        return {vector.name: vector.key for vector in self.vectors}

    def _texts(self) -> Iterator[tuple[str, str]]:
        for vector in self.vectors:
            for term in vector.origin.terms if isinstance(vector.origin, Expression) else ():
                yield from (("vectors", prompt) for prompt in term.prompts)

    def describe(self) -> dict:
        """Return the settings as the JSON beside a CSV tells them."""
        without = {"prompts", "token"} | (set() if any(one.layer is None for one in self.vectors) else {"layers"})
        about = {name: value for name, value in super().describe().items() if name not in without}
        digest = hashlib.sha256("".join(vector.key for vector in self.vectors).encode()).hexdigest()[:16]
        files = sorted({of.origin.stem for of in self.vectors if isinstance(of.origin, FileSource)})
        if self.through:
            name = Path(self.through.path).name
            about |= {self.through.kind: {"file": name, "digest": self.through.key, **json.loads(self.through.about)}}
        return about | {"vectors": {"count": len(self.vectors), "digest": digest, **({"files": files} if files else {})}}


def _check_expression(expression: Expression, card) -> None:
    """Check that a model has an expression's layers and tokens."""
    for layer in sorted(expression.layers):
        check_layer("vectors", layer, card.num_layers)
    for term in expression.terms:
        for prompt in term.prompts:
            locate("vectors", term.token, prompt, card)
    for weight in expression.weights:
        token_of(weight, card)


def token_of(weight: Weight, card) -> int | None:
    """Return the id of the token whose row a weight is; None of a neuron's.

    Raises:
        InputError: a text that is no single token.
    """
    token = weight.index[0]
    if len(weight.index) > 1 or not isinstance(token, str):
        return token if len(weight.index) == 1 else None
    ids = card.tokenizer(token, add_special_tokens=False).input_ids
    if len(ids) != 1:
        parts = " ".join(repr(card.tokenizer.decode([one])) for one in ids)
        raise InputError("vectors", str(weight), f"expected one token of {card.name}; these are {parts or 'none'}")
    return ids[0]


def make_vector_plan(
    vectors: Sequence[Vector],
    components: str | Sequence[str] = f"norm[{GIVEN}]",
    layers: str | int | Sequence[int] = "1-7",
    amplifiers: str | float | Sequence[float] = NORM_GRID,
    target_layer: str | int | Sequence[int | str] = 0,
    width: int = 0,
    through: Through | None = None,
    **settings,
) -> VectorPlan:
    """Make a plan that reads given vectors.

    Args:
        vectors: see `of_expressions` and `models.vector_files.VectorFile.vectors`.
        components: "vector", α·v; "norm[vector]", "norm_add[vector]", "fixed_norm[vector]"; "zero", "none".
        layers: source layers of expressions whose terms name none.
        amplifiers, target_layer, settings: as of `make_plan`.
        width: of a file's vectors.
        through: what is done to vectors first.

    Raises:
        InputError: names the parameter, what was given and what is allowed.
    """
    names = [vector.name for vector in vectors]
    layers = layers if any(vector.layer is None for vector in vectors) else (0,)  # no vector asks for it
    plan = make_plan(names, "hidden_state", layers, amplifiers, -1, target_layer, **settings)
    components = tuple(listed(components))
    for name in components:
        component = parse_component(name)
        if not (component.kind in READ_ONCE or (component.is_given and component.kind in (GIVEN, *COMPOSED))):
            allowed = f"{GIVEN}, norm[{GIVEN}], norm_add[{GIVEN}], fixed_norm[{GIVEN}], zero, none"
            raise InputError("components", name, f"a given vector is read as one of {allowed}")
    if "same" in plan.target_layers and (homeless := [one.name for one in vectors if one.layer == NO_LAYER]):
        why = f"{homeless[0]!r} is of no layer: say which with layer=…, or patch into a layer with a number"
        raise InputError("target_layer", "same", why)
    return VectorPlan(**{**vars(plan), "components": components, "vectors": tuple(vectors), "width": width, "through": through})


def of_expressions(text: str, component: str = "hidden_state", files: bool = True) -> list[Vector]:
    """Return the vectors that a text of expressions stands for; see `expressions`.

    Args:
        files: whether it may read files of prompts.
    """
    found = []
    for expression in parse_all(text, component, files):
        layers = expression.layers
        closed = layers.pop() if len(layers) == 1 else NO_LAYER
        kind = "weight" if isinstance(expression.node, Weight) else "expression"
        layer = None if expression.is_open else closed
        found.append(Vector(str(expression), kind, 0, layer, expression.key, expression))
    return found


def random_like(vectors: Sequence[Vector | None], count: int, seed: int) -> list[Vector]:
    """Return so many random directions like each vector."""
    found = []
    for vector in vectors:
        for number in range(1, count + 1):
            name = f"random {number}" + (f" like {vector.name}" if vector else "")
            key = hashlib.sha256(f"{vector.key if vector else ''} {number} {seed}".encode()).hexdigest()[:16]
            layer = vector.layer if vector else NO_LAYER
            found.append(Vector(name, "random", 0, layer, key, RandomLike(number, seed, vector)))
    return found


NOTHING = Vector("(nothing patched)", "", 0, NO_LAYER, "", None)  # what the model writes where nothing is patched


# What a command, a notebook or Python asks for


def _check_vectors(parameter: str, value: object) -> str:
    texts = check_strings(parameter, [str(one) if isinstance(one, Path) else one for one in listed(value)])
    return grammar.check_text(parameter, "; ".join(texts))


def read_rows(parameter: str, text: str) -> list[tuple[int, int]]:
    """Read rows of a file, like 0-99 or 3,17: the first and the last of each range.

    Raises:
        InputError: not of that form, or a range that ends before it begins.
    """
    ranges = []
    for part in text.split(","):
        found = ROWS.fullmatch(part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, -1)
        if first > last:
            raise InputError(parameter, text, "expected rows, from 0, like 0-99 or 3,17")
        ranges.append((first, last))
    return ranges


def _check_rows(parameter: str, value: object) -> str:
    text = ",".join(map(str, listed(value)))
    if text:
        read_rows(parameter, text)
    return text


def _check_layer(parameter: str, value: object) -> object:
    if value not in ("", "none") and not (grammar.is_whole(value) and value >= 0):
        raise InputError(parameter, value, "expected a layer, from 0, or none")
    return value


def _check_way(parameter: str, value: object) -> str:
    if value not in WAYS:
        raise InputError(parameter, value, f"expected one of {', '.join(WAYS)}")
    return value


class VectorSettings(ReadSettings):
    """Which vectors are read, and how."""

    may_read_files: ClassVar[bool] = True  # of prompts, in an expression

    vectors: Annotated[str, Form(_check_vectors, grammar.read_path)] = setting(
        '"King" - "Man" + "Woman"', f"expressions, or {FORMATS}"
    )
    names: Annotated[tuple[str, ...], Form(check_strings, lambda text: list(map(str, read_list(text))))] = setting(
        (), "only these vectors of a file, by name"
    )
    rows: Annotated[str, Form(_check_rows)] = setting("", "only these rows of a file, like 0-99 or 3,17")
    tensor: String = setting("", "which tensor or column of a file, where there are several")
    layer: Annotated[object, Form(_check_layer, read_number)] = setting(
        "", "which layer a file's vectors are of; empty is what the file says, none is none"
    )
    component: Annotated[str, Form(check_component)] = setting(
        "hidden_state", "what an expression's terms are, where they don't say"
    )
    layers: Layers = setting("1-7", "source layers of an expression's terms, where they don't say")
    way: Annotated[str, Form(_check_way)] = setting(
        "norm", "norm: as long as the placeholder's own state, times ρ; norm_add: added to it; plain: α·v"
    )
    amplifiers: MaybeAmplifiers = setting((), "ρ, c or α; empty is a grid that fits the way")
    target_layer: TargetLayers = setting((0,), "the patched layers: numbers, or same")
    target_prompt: TargetText = setting("", "the prompt that asks for a description; {braces} mark its placeholder")
    reader: FilePath = setting("", "a published reader (docs/any-vector.md): it says how vectors are put, where, and what asks")
    question: String = setting("", "what an activation oracle is asked; empty is a general question")
    placeholders: Positive = setting(1, "of an activation oracle; each gets the vector")
    mapped_from: String = setting("", "another model, that the vectors are of; they are mapped into the one that reads")
    map: FilePath = setting("", "the map's .safetensors file; one that isn't there is fitted; empty is the vectors as they are")
    map_prompts: FilePath = setting("data/entities.csv", "what a map is fitted on; every fifth prompt is held out to try it")
    stop_at_item: Flag = STOP_AT_ITEM
    random: Count = setting(20, "random directions that are read beside them; 0 is none")
    seed: Seed = setting(0, "of the random directions")
    name: String = setting("", "of the CSV; empty is made from the vectors")
    out_dir: FilePath = setting(
        "", "where the CSV goes, relative to the repository; empty is runs/read/<model>/", changes_results=False
    )

    @property
    def is_file(self) -> bool:
        """Tell whether the vectors are in a file: by its ending, or since there is one of this name."""
        return self.vectors.lower().endswith((*SUFFIXES, "/")) or os.path.exists(in_repository(self.vectors))

    @property
    def file(self) -> FileSource:
        return FileSource(self.vectors, self.tensor, self.source_options.allow_pickle)

    def check(self) -> None:
        """Refuse, before anything is imported, an expression that isn't understood, what only files can have, and what
        a reader or a map says already.
        """
        for name in () if self.may_read_files else ("reader", "mapped_from", "map"):
            if given := getattr(self, name):
                raise InputError(name, given, "not here: ./runme.sh read, or Python")
        for name in FIXED if self.reader else ():
            if name in self.model_fields_set and getattr(self, name) != type(self).model_fields[name].default:
                raise InputError(name, getattr(self, name), f"{self.reader} says it; leave it out")
        if self.reader and self.mapped_from:
            raise InputError("mapped_from", self.mapped_from, "can't be combined with a reader")
        for name in ("question", "placeholders"):
            if not self.reader and getattr(self, name) not in ("", 1):
                raise InputError(name, getattr(self, name), "only an activation oracle has it: reader=FOLDER")
        if self.map and not self.mapped_from:
            raise InputError("map", self.map, "say which model the vectors are of: mapped_from=MODEL")
        if self.is_file:
            return
        of_expressions(self.vectors, self.component, self.may_read_files)
        for name in ("names", "rows", "tensor", "layer"):
            if (given := getattr(self, name)) not in ("", ()):
                raise InputError(name, given, f"{self.vectors[:40]!r} is no file that exists, and only files take it")
