"""Components' names: each is parsed once, and each is called the same everywhere."""

import pytest

from helpers import InputError
from helpers.words.components import (
    COMPONENTS,
    COMPOSED,
    EVALUATED,
    GRIDS,
    WAYS,
    Component,
    into,
    parse_component,
    plural,
    title,
)


@pytest.mark.parametrize(
    ("name", "component"),
    [
        ("mlp_output", Component("mlp_output")),
        ("guidance", Component("guidance")),
        ("mlp_sum[1-7]", Component("mlp_sum", blocks=(1, 7))),
        ("mlp_sum[3-3]", Component("mlp_sum", blocks=(3, 3))),
        ("random[mlp_output]", Component("random", of="mlp_output")),
        ("centred[attention_output]", Component("centred", of="attention_output")),
        ("norm[pre_mlp_residual]", Component("norm", of="pre_mlp_residual")),
        ("norm_add[hidden_state]", Component("norm_add", of="hidden_state")),
        ("zero", Component("zero")),
        ("none", Component("none")),
    ],
)
def test_parse_component(name, component):
    assert parse_component(name) == component


@pytest.mark.parametrize(
    "name",
    ["mlp", "mlp_sum[5-2]", "mlp_sum[a-b]", pytest.param(f"mlp_sum[1-{'9' * 5000}]", id="long"),
     "mlp_sum", "random", "random[zero]", "zeros", "", 3, None, ["zero"], "centred",
     "centred[zero]", "norm[guidance]", "plain[mlp_output]", "norm_add[norm[mlp_output]]", "centred[mlp_output] "],
)
def test_an_unknown_component_lists_the_known(name):
    with pytest.raises(InputError, match="components=.*: expected mlp_output, hidden_state, .*guidance, mlp_sum.*centred.X., norm.X., norm_add"):
        parse_component(name)


def test_what_an_amplifier_does_to_a_component():
    amplified = {name for name in COMPONENTS if parse_component(name).is_amplified}
    assert amplified == set(COMPONENTS) and parse_component("random[mlp_output]").is_amplified
    assert parse_component("mlp_sum[1-2]").is_amplified
    assert not parse_component("guidance").is_amplified, "its amplifier is w"
    assert COMPOSED == ("centred", "norm", "norm_add", "add", "fixed_norm") and set(WAYS) == {*COMPOSED, "plain", "guidance"}
    for way in COMPOSED:
        component = parse_component(f"{way}[mlp_output]")
        assert not component.is_amplified and not component.is_read_once, "its formula has the amplifier"
        assert component.is_centred == (way == "centred")
    for name in ("zero", "none"):
        assert parse_component(name).is_read_once and not parse_component(name).is_amplified


def test_a_component_in_sentences():
    assert plural("mlp_output") == "MLP outputs" and title("mlp_output") == "MLP outputs"
    assert title("hidden_state") == "Hidden states" and title("random[mlp_output]") == "Random[mlp_output]"
    assert title("centred[mlp_output]") == "MLP outputs (centred)" and plural("norm_add[hidden_state]") == "hidden states (norm_add)"
    assert into("same") == "into the same layer" and into(0) == "into layer 0"


def test_every_grid_has_a_plain_and_five_amplified_tries():
    """So that best-of-five is compared with best-of-five."""
    for grid in GRIDS.values():
        assert grid[0] == 1 and len(set(grid)) == 6
    assert all(len(set(way.grid)) == len(way.grid) for way in WAYS.values()), "of other ways, at least as many"
    assert EVALUATED == {"mlp_output": "same", "hidden_state": 0}, "the paper's two evaluations (§4.1, §4.2)"
