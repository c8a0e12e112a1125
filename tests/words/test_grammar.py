"""How settings are written, and a sentence for every wrong one."""

import math
import random

import pytest

from helpers import InputError
from helpers.words import grammar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-1", -1),
        ("+2", 2),
        ("0", 0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1.", 1.0),
        ("1e3", 1000.0),
        ("2E-2", 0.02),
    ],
)
def test_plain_numbers(text, value):
    assert grammar.read_number(text) == value and type(grammar.read_number(text)) is type(value)


@pytest.mark.parametrize(
    "text", ["nan", "inf", "-inf", "1_000", "007", "0x10", "1e", "e5", "١", "1 2", "", "true", " 3"]
)
def test_other_texts_are_no_numbers(text):
    assert grammar.read_number(text) == text


def test_quotes_make_a_number_a_text():
    assert grammar.read_number('"3"') == "3" and grammar.read_number("'3'") == "3"
    assert grammar.read_number('"3') == '"3' and grammar.read_number('"') == '"'


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a, b", ["a", "b"]),
        ("[1, 1.5,]", [1, 1.5]),
        ("", []),
        ("[]", []),
        (" , ", []),
        ("mlp_output,mlp_sum[1-3]", ["mlp_output", "mlp_sum[1-3]"]),
        ("[mlp_sum[1-3]]", ["mlp_sum[1-3]"]),
    ],
)
def test_lists(text, values):
    assert grammar.read_list(text) == values


def test_flags_and_mappings():
    assert grammar.read_flag("true") is True and grammar.read_flag("False") is False and grammar.read_flag("1") == "1"
    assert grammar.read_mapping("attention:attn, mlp:mlp") == {"attention": "attn", "mlp": "mlp"}
    assert grammar.read_mapping("attn,mlp") == "attn,mlp" and grammar.read_mapping("") == {}


def test_a_file_that_exists_is_meant_from_where_the_user_stands(tmp_path, monkeypatch):
    (tmp_path / "rows.csv").touch()
    monkeypatch.chdir(tmp_path)
    assert grammar.read_path("rows.csv") == str(tmp_path / "rows.csv")
    assert grammar.read_path("data/other.csv") == "data/other.csv", "or from the repository"


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("1-7", [1, 2, 3, 4, 5, 6, 7]),
        ("3", [3]),
        (3, [3]),
        ("1-2, 9,2", [1, 2, 9]),
        ([4, 0], [4, 0]),
        ("all", list(range(12))),
        ("depth:0,0.1,0.5,1", [0, 1, 6, 11]),
        ("depth:0.5,0.5", [6]),
        ("1-3,depth:0.5,0.9", [1, 2, 3, 6, 10]),  # round(0.5 · 11) to even, and round(0.9 · 11)
    ],
)
def test_layers(layers, expected):
    assert grammar.parse_layers(layers, 12) == expected
    grammar.check_layers("layers", layers)


@pytest.mark.parametrize(
    "layers",
    ["", "a", "3-1", "1-2-3", "depth:1.5", "depth:", "1-3,depth", "1,,2", "depth:nan", 1.5, [1, "2"], [True], [], None],
)
def test_layers_of_no_known_form(layers):
    with pytest.raises(InputError, match="layers="):
        grammar.check_layers("layers", layers)


@pytest.mark.parametrize("layers", ["12", "0-12", 12, [1, 12], "1-99999999999"])
def test_layers_that_the_model_lacks(layers):
    with pytest.raises(InputError, match=r"layers=.*: this model has layers 0–11$"):
        grammar.parse_layers(layers, 12)


def test_layers_beyond_any_model_are_quickly_refused():
    """Not by making a list of them; and what a model may have is left to the model."""
    grammar.check_layers("layers", "0-999999999999")
    with pytest.raises(InputError, match="layers=999999999999: this model has layers 0–29"):
        grammar.parse_layers("0-999999999999", 30)
    with pytest.raises(InputError, match="layers=-1: layers are counted from 0"):
        grammar.check_layers("layers", [-1])


@pytest.mark.parametrize(
    ("text", "amplifiers"),
    [
        ("1, 1.3,1.5", (1, 1.3, 1.5)),
        ("1:3:0.5", (1, 1.5, 2, 2.5, 3)),
        ("1:2:0.4, 7,", (1, 1.4, 1.8, 7)),
        ("0.1:0.3:0.1", (0.1, 0.2, 0.3)),
        ("3:1:-1", (3, 2, 1)),
        ("1e-10:3e-10:1e-10", (1e-10, 2e-10, 3e-10)),
        ("-1", (-1,)),
        ("[1, 3]", (1, 3)),
        ("1:15:0.5", tuple(1 + i / 2 for i in range(29))),
    ],
)
def test_amplifiers_as_a_text(text, amplifiers):
    assert grammar.check_amplifiers("amplifiers", text) == amplifiers
    assert all(type(amplifier) is float for amplifier in grammar.check_amplifiers("amplifiers", text))


@pytest.mark.parametrize(
    "text",
    ["", " , ", "one", "1:2", "1:2:0", "2:1:1", "1:inf:1", "nan", "1:1e9:1", "1;2", "1:2:0.00001", "1_0", "1:2:3:4"],
)
def test_a_text_that_is_no_amplifiers(text):
    with pytest.raises(InputError, match="amplifiers="):
        grammar.check_amplifiers("amplifiers", text)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([], "amplifiers="),
        ([1, math.nan], "amplifiers=nan: expected finite"),
        ([1, math.inf], "amplifiers=inf"),
        (True, "amplifiers=True"),
        (None, "amplifiers=None"),
        ([[1]], "amplifiers="),
    ],
)
def test_values_that_are_no_amplifiers(values, words):
    with pytest.raises(InputError, match=words):
        grammar.check_amplifiers("amplifiers", values)


def test_repeats_are_merged_with_a_note():
    with pytest.warns(UserWarning, match="amplifiers: 1 repeated"):
        assert grammar.check_amplifiers("amplifiers", [3, 1, 3.0]) == (3.0, 1.0)


def test_random_alone_takes_the_norm_of_the_only_recorded_component():
    assert grammar.check_components("components", ["hidden_state", "random"]) == (
        "hidden_state",
        "random[hidden_state]",
    )
    for components in ("random", ["mlp_output", "hidden_state", "random"]):
        with pytest.raises(InputError, match="say whose norm it has"):
            grammar.check_components("components", components)


def test_tokens_and_target_layers():
    assert grammar.check_tokens("token", [-1, " Wales"]) == (-1, " Wales")
    assert grammar.check_target_layers("target_layer", ["same", 0]) == ("same", 0)
    for token in ("", 1.5, True, None):
        with pytest.raises(InputError, match="token="):
            grammar.check_tokens("token", token)
    for target in ("last", -1, 0.5, True):
        with pytest.raises(InputError, match="target_layer="):
            grammar.check_target_layers("target_layer", target)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  ", "empty or blank"),
        (False, "expected text, got bool; quote it"),
        ("nul\0", "NUL"),
        ("\ud800", "surrogate"),
    ],
)
def test_texts_that_cannot_be_tokenized(text, words):
    with pytest.raises(InputError, match=words):
        grammar.check_text("prompt", text)


@pytest.mark.parametrize("value", [-1, 1.0, True, "1", None])
def test_whole_numbers(value):
    with pytest.raises(InputError, match=r"count=.*: expected a whole number, 0 or more"):
        grammar.check_whole("count", value)
    with pytest.raises(InputError, match=r"seed=4294967296: expected a whole number, from 0 to 4,294,967,295"):
        grammar.check_whole("seed", 2**32, 0, 2**32 - 1)


@pytest.mark.parametrize("value", [1.1, -1.1, math.nan, "0.3", True, None])
def test_numbers_within_limits(value):
    with pytest.raises(InputError, match="threshold=.*: expected a number, a cosine"):
        grammar.check_real("threshold", value, -1, 1, "a cosine, from -1 to 1")


def test_whatever_is_typed_is_read_or_refused_with_its_name():
    """Random texts: a value of the right kind, or an InputError that begins with the parameter; nothing else."""
    rng, letters = random.Random(0), "0123456789.,:-[]e+ alldepthsm\"'_\u0661\t"
    checks = {
        "layers": grammar.check_layers,
        "amplifiers": grammar.check_amplifiers,
        "components": lambda name, text: grammar.check_components(name, grammar.read_list(text)),
        "token": lambda name, text: grammar.check_tokens(name, grammar.read_number(text)),
    }
    for _ in range(4000):
        name, text = rng.choice(list(checks)), "".join(rng.choices(letters, k=rng.randrange(9)))
        try:
            checks[name](name, text)
        except InputError as error:
            assert str(error).startswith(f"{name}=")
