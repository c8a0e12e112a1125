"""The one record of settings: what a parameter is called, its default, how it is written and what it may be.

The shell (NAME=VALUE), the notebooks' parameters, the page, its links, its API and the JSON beside a CSV all read and
write these records. A field's type is a `Form`: how its value is read from a text, and how any value is checked.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import core_schema

from .. import ROOT, InputError
from . import grammar
from .components import COMPOSED, PLACES
from .files import at_home
from .grammar import check_flag, check_real, check_string, check_whole, read_number, read_path
from .machine import cores
from .methods import CHOICES

DEFAULT_MODEL = "smollm2-135m"
DTYPES = ("float32", "bfloat16", "float16")
QUANTIZATIONS = ("4bit", "8bit")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
FIRST_CELLS = 4  # IPython's `In` in a fresh kernel: an empty one, the parameters, papermill's, the one that checks
IPYTHONS = ("In", "Out", "exit", "quit", "open", "get_ipython", "papermill_description")


class Form(NamedTuple):
    """How one kind of value is written.

    Attributes:
        check: (parameter, value) -> the value as the record keeps it, or InputError.
        read: text -> value, not yet checked.
    """

    check: Callable[[str, object], object]
    read: Callable[[str], object] = str

    def __get_pydantic_core_schema__(self, source, handler):
        return core_schema.with_info_plain_validator_function(lambda value, info: self.check(info.field_name, value))


# The forms


def check_one_of(allowed: Sequence[str], parameter: str, value: object) -> str:
    if value not in allowed:
        raise InputError(parameter, value, f"expected one of {', '.join(allowed)}")
    return value


def _check_workers(parameter: str, value: object) -> int | str:
    fits = "://" in value if isinstance(value, str) else grammar.is_whole(value) and 0 <= value <= cores()
    if not fits:
        why = f"expected 0 to {cores()}, processes of this machine with a model each, or a scheduler's address, tcp://…"
        raise InputError(parameter, value, why)
    return value


def _check_paths(parameter: str, values: object) -> tuple[str, ...]:
    return grammar.check_strings(parameter, [str(one) if isinstance(one, Path) else one for one in grammar.listed(values)])


def _check_options(parameter: str, value: object) -> SourceOptions:
    return value if isinstance(value, SourceOptions) else SourceOptions.of(value)


def _check_quantization(parameter: str, value: object) -> str:
    return value if value == "" else check_one_of(QUANTIZATIONS, parameter, value)


def _check_device_map(parameter: str, value: object) -> str | Mapping:
    if not isinstance(value, str | Mapping):
        raise InputError(parameter, value, 'expected "auto", or a mapping of modules to devices')
    return value


def _check_adapter(parameter: str, value: object) -> str:
    folder = at_home(check_string(parameter, value))
    if value and not all(os.path.isfile(folder / file) for file in ADAPTER_FILES):
        raise InputError(parameter, value, f"expected a PEFT folder with {' and '.join(ADAPTER_FILES)}")
    return value


def _check_parts(parameter: str, value: object) -> dict[str, str]:
    parts = grammar.check_mapping(parameter, value)
    if parts and not {"attention", "mlp"} <= set(parts) <= {"attention", "mlp", "scale", "blocks"}:
        why = 'expected the modules of a block, as in attention:self_attn,mlp:feed_forward (also scale:…, blocks:…)'
        raise InputError(parameter, value, why)
    return parts


def _check_target_prompt(parameter: str, value: object) -> str:
    from .target import TargetPrompt

    TargetPrompt.of_text(check_string(parameter, value))
    return value


Text = Annotated[str, Form(grammar.check_text)]  # of a prompt or a description: not blank
String = Annotated[str, Form(check_string)]
FilePath = Annotated[str, Form(lambda name, value: check_string(name, str(value) if isinstance(value, Path) else value), read_path)]
FilePaths = Annotated[tuple[str, ...], Form(_check_paths, lambda text: [read_path(str(one)) for one in grammar.read_list(text)])]
Strings = Annotated[tuple[str, ...], Form(grammar.check_strings, grammar.read_list)]
Pairs = Annotated[dict[str, str], Form(grammar.check_mapping, grammar.read_mapping)]
Flag = Annotated[bool, Form(check_flag, grammar.read_flag)]
Count = Annotated[int, Form(check_whole, read_number)]  # 0 or more
Positive = Annotated[int, Form(partial(check_whole, least=1), read_number)]
Seed = Annotated[int, Form(partial(check_whole, least=0, most=2**32 - 1), read_number)]
Components = Annotated[tuple[str, ...], Form(grammar.check_components, grammar.read_list)]
Layers = Annotated[str | tuple[int, ...], Form(grammar.check_layers)]
MaybeLayers = Annotated[  # for which none is a choice, too
    str | tuple[int, ...], Form(lambda name, layers: grammar.check_layers(name, layers) if layers not in ("", [], ()) else "")
]
Amplifiers = Annotated[tuple[float, ...], Form(grammar.check_amplifiers)]
MaybeAmplifiers = Annotated[  # for which none is a choice, too
    tuple[float, ...], Form(lambda name, values: grammar.check_amplifiers(name, values) if values not in ("", [], ()) else ())
]
Tokens = Annotated[tuple[int | str, ...], Form(grammar.check_tokens, grammar.read_number)]
TargetLayers = Annotated[tuple[int | str, ...], Form(grammar.check_target_layers, grammar.read_number)]
Place = Annotated[str, Form(partial(check_one_of, tuple(PLACES)))]  # where in a block
Way = Annotated[str, Form(partial(check_one_of, ("plain", *COMPOSED)))]
TargetText = Annotated[str, Form(_check_target_prompt)]
Temperature = Annotated[float, Form(partial(check_real, least=0, most=1e6, words="0 (greedy) or more"), read_number)]
TopP = Annotated[float, Form(partial(check_real, least=1e-9, most=1, words="above 0, up to 1"), read_number)]
Cosine = Annotated[float, Form(partial(check_real, least=-1, most=1, words="a cosine, from -1 to 1"), read_number)]
Dtype = Annotated[str, Form(partial(check_one_of, DTYPES))]
Choice = Annotated[str, Form(partial(check_one_of, tuple(CHOICES)))]  # by what a reading of a vector is chosen
Workers = Annotated[int | str, Form(_check_workers, read_number)]


def setting(default: object, meaning: str, changes_results: bool = True):
    """Declare a field: its default, what it means in a few words, and whether a result depends on it."""
    return Field(default, description=meaning, json_schema_extra={"changes_results": changes_results})


class Record(BaseModel):
    """A record of settings. Frozen; an unknown name is an error with a hint."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, validate_default=True)

    @classmethod
    def of(cls, values: Mapping[str, object]) -> Record:
        """Check values and return them as a record.

        Raises:
            InputError: names the parameter, what was given and what is allowed.
        """
        for name, value in values.items():
            if name not in cls.model_fields:
                raise InputError(name, value, unknown(name, cls.model_fields))
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            cause = first.get("ctx", {}).get("error")
            if isinstance(cause, InputError):
                raise cause from None
            raise InputError(".".join(map(str, first["loc"])), first.get("input"), first["msg"]) from None

    @classmethod
    def of_notebook(cls, given: Mapping[str, object]) -> Record:
        """Check a notebook's globals, before it has imported more than its experiment: papermill takes any name.

        Names are refused when the notebook begins, not when its cells run again beside names of the user's own.

        Raises:
            InputError: names the parameter; says which are known, or what is allowed.
        """
        from types import ModuleType

        names = [name for name, value in given.items() if not (name.startswith("_") or name in IPYTHONS or isinstance(value, ModuleType))]
        begins = len(given.get("In", ())) <= FIRST_CELLS
        return cls.of({name: given[name] for name in names if begins or name in cls.model_fields})

    @classmethod
    def read(cls, name: str, text: str) -> object:
        """Read the value of a field from a text; it isn't checked yet."""
        return _form(cls, name).read(text)

    @property
    def changed(self) -> dict[str, object]:
        """Options that differ from their defaults."""
        usual = type(self)()
        return {name: value for name in type(self).model_fields if (value := getattr(self, name)) != getattr(usual, name)}

    def shown(self) -> dict[str, object]:
        """Return what the results depend on, as their JSON tells it; files of the repository by relative paths."""
        fields = type(self).model_fields
        names = [name for name, field in fields.items() if field.json_schema_extra["changes_results"]]
        return {name: _without_root(getattr(self, name)) for name in names}


def _without_root(value: object) -> object:
    if isinstance(value, Record):
        value = value.changed
    if isinstance(value, dict):
        return {name: _without_root(part) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return tuple(map(_without_root, value))
    return value.removeprefix(f"{ROOT}/") if isinstance(value, str) else value


class SourceOptions(Record):
    """What can be said of a model's source beside its name."""

    revision: String = setting("", "branch, tag or commit of a hub id")
    adapter: Annotated[str, Form(_check_adapter, read_path)] = setting(
        "", "a PEFT folder (LoRA and other kinds that change the model's own layers) on top of the weights"
    )
    quantization: Annotated[str, Form(_check_quantization)] = setting("", "4bit or 8bit, by bitsandbytes")
    device_map: Annotated[object, Form(_check_device_map)] = setting(
        "", 'accelerate\'s, to spread a model over several devices: "auto", or module -> device'
    )
    trust_remote_code: Flag = setting(False, "run the Python files that come with a model")
    allow_pickle: Flag = setting(False, "read pickled weights where there are no safetensors")
    parts: Annotated[dict[str, str], Form(_check_parts, grammar.read_mapping)] = setting(
        {}, "modules of a block, for a family that isn't known: attention:NAME,mlp:NAME"
    )

    @classmethod
    def of(cls, values: Mapping[str, object]) -> SourceOptions:
        """Check options, as keyword arguments of `load_model` or as a notebook's `source_options`."""
        if not isinstance(values, Mapping):
            raise InputError("source_options", values, "expected a mapping, like {'revision': 'v1.0'}")
        if unknown_names := sorted(set(values) - set(cls.model_fields)):
            raise InputError("source_options", unknown_names, f"known: {', '.join(cls.model_fields)}")
        return super().of(values)


SourceOptionsField = Annotated[SourceOptions, Form(_check_options)]


class ModelSettings(Record):
    """Which model, and how it is held in memory."""

    model: Text = setting(
        DEFAULT_MODEL, "of the catalogue, a folder, a .gguf file, a hub id owner/name, or owner/name:file.gguf"
    )
    source_options: SourceOptionsField = setting(
        SourceOptions(), "revision, adapter, quantization, device_map, trust_remote_code, allow_pickle, parts"
    )
    dtype: Dtype = setting("float32", "float32, bfloat16 or float16")
    device: String = setting("auto", "auto: a GPU where there is one; or cpu, cuda, cuda:1", changes_results=False)


class ResultSettings(Record):
    """Where results go, and how they are judged."""

    judge: FilePath = setting("", "a folder of another sentence-transformers model; empty is the paper's judge")
    out_dir: FilePath = setting(
        "", "where results go, relative to the repository; empty is data/<model>/", changes_results=False
    )


class StoredSettings(ResultSettings):
    """What an experiment that only reads stored results has."""

    model: Text = setting(DEFAULT_MODEL, "whose results")
    source_options: SourceOptionsField = setting(
        SourceOptions(), "what else the results' folder is named by: revision, adapter, quantization"
    )


class ReadSettings(ModelSettings):
    """What every experiment that reads from a model has."""

    max_new_tokens: Positive = setting(10, "length of a reading")
    batch_size: Count = setting(0, "rows at a time; 0 finds a good number", changes_results=False)
    workers: Workers = setting(
        0, 'who reads: 0, this process; a number, so many of this machine; "tcp://…", a Dask scheduler\'s',
        changes_results=False,
    )  # fmt: skip
    new: Flag = setting(False, "begin anew, beside what unfinished runs have left", changes_results=False)
    reuse: FilePath = setting(
        "", "a folder of earlier results: readings that would come out the same are taken from there",
        changes_results=False,
    )  # fmt: skip
    judge: FilePath = ResultSettings.model_fields["judge"]
    out_dir: FilePath = ResultSettings.model_fields["out_dir"]


PROMPTS = setting("data/prompts.csv", "a CSV with the columns `prompt`, `gold` and `category`, relative to the repository")
NUM_PROMPTS = setting(0, "only the first so many; 0 is all")
STOP_AT_ITEM = setting(False, "end a reading when its first list item is over: faster; the paper scores all tokens")
THRESHOLD = setting(0.3, "a reading above this similarity counts as a success")
RESULTS = setting((), "the two evaluations' CSVs, relative to the repository; empty is those in out_dir")


def _form(record: type[Record], name: str) -> Form:
    return next(one for one in record.model_fields[name].metadata if isinstance(one, Form))


def unknown(name: str, known: Iterable[str]) -> str:
    """Say that a name is unknown, which one may have been meant, and which are known."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"unknown; {f'did you mean {near[0]!r}? ' if near else ''}known: {', '.join(known)}"


def read_settings(texts: Iterable[str], records: Iterable[type[Record]]) -> dict[str, object]:
    """Read NAME=VALUE texts for some records; a source option goes into `source_options`.

    Returns:
        name -> value, of the kind that its field has; each is checked.

    Raises:
        InputError: not of that form, a name that no record has (the known ones are listed), a wrong value, or one
            that is given twice.
    """
    homes = {name: record for record in (SourceOptions, *records)[::-1] for name in record.model_fields}
    homes.pop("source_options", None)
    given: dict[str, object] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError("setting", text, "expected NAME=VALUE")
        if name not in homes:
            raise InputError("setting", name, unknown(name, homes))
        home = homes[name]
        if name in given or name in given.get("source_options", ()):
            raise InputError(name, value, "given twice")
        read = _form(home, name).check(name, home.read(name, value))
        if home is SourceOptions:
            given.setdefault("source_options", {})[name] = read
        else:
            given[name] = read
    return given


def settle(record: type[Record], texts: Iterable[str], options: Mapping[str, str | None]) -> Record:
    """Return the settings that a command means.

    Args:
        texts: NAME=VALUE settings, or options of a model's source.
        options: settings that were given as arguments or options; None where they weren't.

    Raises:
        InputError: an unknown setting, a wrong value, or one that is given twice.
    """
    given = read_settings(texts, [record])
    for name, text in options.items():
        if text is None:
            continue
        if name in given:
            raise InputError(name, text, "given twice")
        given[name] = record.read(name, text)
    return record.of(given)
