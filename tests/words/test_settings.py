"""One record and one grammar: a setting means the same in the shell, in a notebook, in a link and in Python."""

import json
import math
import subprocess
import sys

import pytest
from pydantic import ValidationError

from helpers import ROOT, InputError
from helpers.words import settings as words
from helpers.words.settings import (
    ModelSettings,
    ReadSettings,
    Record,
    ResultSettings,
    SourceOptions,
    read_settings,
    setting,
)


class Everything(Record):
    """A setting of every kind."""

    text: words.Text = setting("Titanic", "a prompt")
    string: words.String = setting("", "a name")
    file: words.FilePath = setting("", "a file")
    files: words.FilePaths = setting((), "files")
    names: words.Strings = setting((), "names")
    pairs: words.Pairs = setting({}, "names and labels")
    flag: words.Flag = setting(False, "a choice")
    count: words.Count = setting(0, "a number of things", changes_results=False)
    positive: words.Positive = setting(10, "a length")
    seed: words.Seed = setting(0, "a seed")
    components: words.Components = setting(("mlp_output",), "components")
    layers: words.Layers = setting("1-7", "layers")
    amplifiers: words.Amplifiers = setting((1.0, 3.0), "amplifiers")
    more_amplifiers: words.MaybeAmplifiers = setting((), "further amplifiers")
    token: words.Tokens = setting((-1,), "tokens")
    target_layer: words.TargetLayers = setting(("same",), "target layers")
    place: words.Place = setting("hidden_state", "a place in a block")
    way: words.Way = setting("plain", "a way")
    target_prompt: words.TargetText = setting("", "a target prompt")
    temperature: words.Temperature = setting(0.0, "a temperature")
    top_p: words.TopP = setting(0.9, "a share")
    threshold: words.Cosine = setting(0.3, "a cosine")
    dtype: words.Dtype = setting("float32", "a dtype")
    workers: words.Workers = setting(0, "workers")


# name -> its text in the shell, on the page and in a link; values that mean the same in a notebook; what is kept
WRITTEN = {
    "text": ("Saturday Night Live", ["Saturday Night Live"], "Saturday Night Live"),
    "string": ("v1.0", ["v1.0"], "v1.0"),
    "file": ("data/prompts.csv", ["data/prompts.csv"], str(ROOT / "data/prompts.csv")),
    "files": ("a.csv, b.csv", [["a.csv", "b.csv"], ("a.csv", "b.csv")], ("a.csv", "b.csv")),
    "names": ("a, b", [["a", "b"], ("a", "b")], ("a", "b")),
    "pairs": ("a:A model, b:B", [{"a": "A model", "b": "B"}], {"a": "A model", "b": "B"}),
    "flag": ("true", [True], True),
    "count": ("48", [48], 48),
    "positive": ("5", [5], 5),
    "seed": ("7", [7], 7),
    "components": ("mlp_output,random", [["mlp_output", "random"]], ("mlp_output", "random[mlp_output]")),
    "layers": ("1-3,depth:0.5", ["1-3,depth:0.5"], "1-3,depth:0.5"),
    "amplifiers": ("1:2:0.5,6", ["1:2:0.5,6", [1, 1.5, 2, 6], ["1:2:0.5", 6], (1.0, 1.5, 2.0, 6.0)], (1, 1.5, 2, 6)),
    "more_amplifiers": ("", ["", [], ()], ()),
    "token": ("2", [2, [2]], (2,)),
    "target_layer": ("0", [0, [0]], (0,)),
    "place": ("block_input", ["block_input"], "block_input"),
    "way": ("norm_add", ["norm_add"], "norm_add"),
    "target_prompt": ("Oslo: Capital of Norway, {x}", ["Oslo: Capital of Norway, {x}"], "Oslo: Capital of Norway, {x}"),
    "temperature": ("0.6", [0.6], 0.6),
    "top_p": ("1", [1, 1.0], 1),
    "threshold": ("-0.5", [-0.5], -0.5),
    "dtype": ("bfloat16", ["bfloat16"], "bfloat16"),
    "workers": ("tcp://node:8786", ["tcp://node:8786"], "tcp://node:8786"),
}


def test_every_kind_is_tried():
    assert set(WRITTEN) == set(Everything.model_fields)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_setting_means_the_same_however_it_is_written(name, monkeypatch):
    text, values, kept = WRITTEN[name]
    monkeypatch.chdir(ROOT)
    assert read_settings([f"{name}={text}"], [Everything]) == {name: kept}
    assert getattr(Everything.of({name: Everything.read(name, text)}), name) == kept
    for value in values if name != "file" else [kept]:
        assert getattr(Everything.of({name: value}), name) == kept
        assert getattr(Everything.of_notebook({"In": [""] * 3, name: value}), name) == kept


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_kept_is_read_again_unchanged(name):
    """From the JSON beside a CSV, where a tuple is a list; and defaults are as if they had been given."""
    for value in (WRITTEN[name][2], getattr(Everything(), name)):
        record = Everything.of({name: value})
        assert getattr(record, name) == value
        assert Everything.of(json.loads(json.dumps({name: value}))) == record


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("text", " "), ("text", 3), ("string", 3), ("file", 3), ("files", [3]), ("names", [3]), ("pairs", {"a": 3}),
        ("pairs", "a,b"), ("flag", 1), ("flag", "yes"), ("count", -1), ("count", 1.0), ("count", True), ("positive", 0),
        ("seed", 2**32), ("seed", -1), ("components", "mlp"), ("components", []), ("layers", "7-1"), ("layers", 1.5),
        ("amplifiers", ()), ("amplifiers", "1:2"), ("amplifiers", math.nan), ("more_amplifiers", "1:2"), ("token", 1.5),
        ("target_layer", "last"), ("target_prompt", "{x} {y"), ("target_prompt", 3), ("temperature", -1),
        ("temperature", "hot"), ("temperature", math.nan), ("top_p", 0), ("top_p", 1.1), ("threshold", 1.1),
        ("dtype", "float64"), ("workers", -1), ("workers", 100_000), ("workers", "node"), ("workers", True),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_what_is_allowed(name, value):
    with pytest.raises(InputError, match=r"^\w+=.*: .") as raised:
        Everything.of({name: value})
    assert str(raised.value).split("=")[0] == name


@pytest.mark.parametrize(
    "text",
    ["flag=1", "count=-1", "count=1.0", "positive=", "seed=x", "components=mlp", "layers=7-1", "amplifiers=1:2",
     "amplifiers=", "token=1.5", "target_layer=last", "target_prompt={x} {y", "temperature=hot", "top_p=nan",
     "threshold=2", "dtype=float64", "workers=-1", "pairs=a,b", "text="],
)  # fmt: skip
def test_a_wrong_text_is_refused_in_the_shell(text):
    with pytest.raises(InputError, match=f"^{text.split('=')[0]}=.*: ."):
        read_settings([text], [Everything])


@pytest.mark.parametrize(
    ("name", "meant"), [("amplifier", "amplifiers"), ("tempreature", "temperature"), ("Layers", "layers")]
)
def test_a_near_miss_is_suggested(name, meant):
    for give in (lambda: Everything.of({name: 1}), lambda: read_settings([f"{name}=1"], [Everything])):
        with pytest.raises(InputError, match=f"unknown; did you mean '{meant}'. known: text, "):
            give()


def test_an_unknown_name_lists_the_known():
    with pytest.raises(InputError, match="xyz=1: unknown; known: text, string"):
        Everything.of({"xyz": 1})
    with pytest.raises(InputError, match="setting='amplifiers': expected NAME=VALUE"):
        read_settings(["amplifiers"], [Everything])


@pytest.mark.parametrize("texts", [["seed=3", "seed=4"], ["revision=v3", "seed=3", "revision=v4"]])
def test_a_setting_that_is_given_twice_is_refused(texts):
    with pytest.raises(InputError, match=r"^(seed='4'|revision='v4'): given twice$"):
        read_settings(texts, [Everything])


def test_a_record_is_frozen():
    record = Everything()
    with pytest.raises(ValidationError):
        record.seed = 3
    assert record.seed == 0


def test_a_notebook_is_checked_when_it_begins():
    """Papermill takes any name; IPython's own names, modules and private names are no settings."""
    fresh = {"In": [""] * 3, "Out": {}, "exit": 1, "quit": 1, "get_ipython": 1, "json": json, "_i": "", "seed": 3}
    assert Everything.of_notebook(fresh) == Everything(seed=3)
    with pytest.raises(InputError, match="unknown; did you mean 'seed'"):
        Everything.of_notebook(fresh | {"sed": 3})


def test_a_notebook_that_runs_again_has_names_of_its_users():
    used = {"In": [""] * 9, "seed": 3, "rows": [], "my_plot": object()}
    assert Everything.of_notebook(used) == Everything(seed=3)
    with pytest.raises(InputError, match="seed="):
        Everything.of_notebook(used | {"seed": -1})


def test_what_results_depend_on_is_shown():
    shown = Everything(seed=3, count=5).shown()
    assert shown["seed"] == 3 and "count" not in shown
    assert ModelSettings(source_options={"revision": "v2"}).shown()["source_options"] == {"revision": "v2"}
    assert ModelSettings().shown() == {"model": "smollm2-135m", "source_options": {}, "dtype": "float32"}
    json.dumps(ReadSettings().shown())


def test_every_setting_has_a_meaning():
    for record in (Everything, SourceOptions, ModelSettings, ResultSettings, ReadSettings):
        assert all(field.description for field in record.model_fields.values())


def test_source_options():
    options = SourceOptions.of({"revision": "v1", "parts": {"attention": "attn", "mlp": "ffn"}})
    assert options.changed == {"revision": "v1", "parts": {"attention": "attn", "mlp": "ffn"}}
    assert SourceOptions().changed == {} and SourceOptions.of({"parts": {}}) == SourceOptions()
    read = read_settings(
        ["revision=v1", "trust_remote_code=true", "parts=attention:attn,mlp:ffn", "seed=3"], [Everything]
    )
    assert read == {
        "source_options": {
            "revision": "v1", "trust_remote_code": True, "parts": {"attention": "attn", "mlp": "ffn"}
        },
        "seed": 3,
    }  # fmt: skip
    assert ModelSettings.of({"source_options": read["source_options"]}).source_options.revision == "v1"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("v1", "source_options='v1': expected a mapping"),
        ({"revison": "v1"}, r"source_options=\['revison'\]: known: revision, adapter"),
        ({"revision": 1}, "revision=1: expected text"),
        ({"quantization": "2bit"}, "quantization='2bit': expected one of 4bit, 8bit"),
        ({"adapter": "no/such/folder"}, "adapter='no/such/folder': expected a PEFT folder"),
        ({"parts": {"attention": "attn"}}, "parts=.*: expected the modules of a block"),
        ({"parts": {"attention": "attn", "mlp": "ffn", "norm": "n"}}, "parts=.*: expected the modules of a block"),
        ({"trust_remote_code": "yes"}, "trust_remote_code='yes': expected true or false"),
        ({"device_map": 3}, "device_map=3: expected"),
    ],
)
def test_wrong_source_options(options, words):
    with pytest.raises(InputError, match=words):
        ModelSettings.of({"source_options": options})


def test_words_import_nothing_heavy():
    """So that a wrong setting is refused in a moment."""
    modules = [
        f"helpers.words.{path.stem}" for path in (ROOT / "helpers/words").glob("*.py") if path.stem != "__init__"
    ]
    heavy = "torch", "transformers", "pandas", "numpy", "scipy", "matplotlib", "gradio"
    code = f"import sys, {', '.join(modules)}; print(sorted(sys.modules.keys() & set({heavy})))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
