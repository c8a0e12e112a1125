"""Plans: order, ids, and one clear sentence for every wrong setting."""

import pytest

from helpers import InputError
from helpers.decoding import Sampling
from helpers.models import read_model
from helpers.plans import TargetPrompt, locate, make_plan, parse_layers
from helpers.results import read_prompts


def test_the_papers_mlp_evaluation_is_the_default(lm):
    items = make_plan(read_prompts("data/prompts.csv")).items(lm)
    assert len(items) == 48 * 7 * 6
    assert (items["layer"] == items["target layer"]).all()
    assert items["layer"].unique().tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert items["source prompt"].nunique() == 48
    last = items.groupby("source prompt")["token"].first()
    assert (last["Saturday Night Live"], last["Diana, Princess of Wales"]) == (" Live", " Wales")


def test_a_plan_needs_no_weights(lm):
    plan = make_plan(["Titanic"], layers="all", amplifiers=2)
    assert plan.items(read_model("smollm2-135m")).equals(plan.items(lm))


def test_items_that_come_out_the_same_are_kept_once(lm):
    items = make_plan(
        ["Star Wars"], layers="0-1", amplifiers=1, token=[-1, " Wars", 0], target_layer=[0, "same"]
    ).items(lm)
    keys = items[["position", "layer", "target layer"]].values.tolist()
    assert keys == [[1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 0], [0, 1, 0], [0, 1, 1]]


def test_repeats_are_merged_with_a_note():
    with pytest.warns(UserWarning, match="amplifiers: 1 repeated"):
        assert make_plan(["a"], amplifiers=[3, 1, 3.0]).amplifiers == (3.0, 1.0)


def test_an_id_changes_with_everything_that_can_change_a_text(lm, tiny):
    def one(model=lm, **settings):
        plan = make_plan(**{"prompts": ["Star Wars"], "layers": 2, "amplifiers": 3} | settings)
        return plan.ids(plan.items(model), model)[0]

    variants = [
        one(),
        one(prompts=["Star Trek"]),
        one(token=0),
        one(components="hidden_state"),
        one(layers=1),
        one(amplifiers=3.5),
        one(target_layer=0),
        one(target_prompt="Syria: country, x"),
        one(target_prompt=TargetPrompt(placeholder=0)),
        one(max_new_tokens=9),
        one(decoding=Sampling()),
        one(decoding=Sampling(), seed=1),
        one(decoding=Sampling(0.7)),
        one(model=tiny),
    ]
    assert len(set(variants)) == len(variants)
    assert one(seed=5) == one(amplifiers=3.0) == one()  # a greedy text doesn't depend on a seed


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
    ],
)
def test_layers(layers, expected):
    assert parse_layers(layers, 12) == expected


@pytest.mark.parametrize("layers", ["", "a", "3-1", "1-2-3", "depth:1.5", "depth:", 1.5, [1, "2"], [True]])
def test_layers_of_no_known_form(layers):
    with pytest.raises(InputError, match="layers="):
        make_plan(["a"], layers=layers)


@pytest.mark.parametrize("layers", ["12", "0-12", 12, [1, 12], "1-99999999999"])
def test_layers_that_the_model_lacks(layers):
    with pytest.raises(InputError, match="this model has layers 0–11"):
        parse_layers(layers, 12)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"prompts": []}, "prompts=.*at least one"),
        ({"prompts": ["ok", "  "]}, r"prompts\[1\]=.*blank"),
        ({"prompts": ["ok", False]}, r"prompts\[1\]=False: expected text, got bool; quote it"),
        ({"prompts": ["nul\0"]}, "NUL"),
        ({"prompts": ["\ud800"]}, "surrogate"),
        ({"components": "mlp"}, "components='mlp': expected mlp_output"),
        ({"amplifiers": []}, "amplifiers="),
        ({"amplifiers": [1, float("nan")]}, "amplifiers=nan: expected finite"),
        ({"amplifiers": [1, float("inf")]}, "amplifiers=inf"),
        ({"amplifiers": ["1e-3"]}, "1.0e-3 a number"),
        ({"amplifiers": True}, "amplifiers=True"),
        ({"token": 1.5}, "token="),
        ({"token": ""}, "token="),
        ({"target_layer": "last"}, "target_layer='last'"),
        ({"target_layer": -1}, "target_layer=-1"),
        ({"target_prompt": " "}, "target_prompt="),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"decoding": "greedy"}, "decoding="),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**32}, "seed="),
    ],
)
def test_wrong_settings_name_the_parameter_and_what_is_allowed(settings, words):
    with pytest.raises(InputError, match=words):
        make_plan(**{"prompts": ["Titanic"]} | settings)


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
    ],
)
def test_amplifiers_as_a_text(text, amplifiers):
    assert make_plan(["Titanic"], amplifiers=text).amplifiers == amplifiers


@pytest.mark.parametrize("text", ["", " , ", "one", "1:2", "1:2:0", "2:1:1", "1:inf:1", "nan", "1:1e9:1", "1;2"])
def test_a_text_that_is_no_amplifiers(text):
    with pytest.raises(InputError, match="amplifiers="):
        make_plan(["Titanic"], amplifiers=text)


@pytest.mark.parametrize(("temperature", "top_p"), [(-1, 0.9), (float("inf"), 0.9), (0.6, 0), (0.6, 1.1), ("a", 1)])
def test_sampling_refuses(temperature, top_p):
    with pytest.raises(InputError, match="temperature=|top_p="):
        Sampling(temperature, top_p)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layers": 30}, "layers=30: this model has layers 0–29"),
        ({"target_layer": 30}, "target_layer=30: this model has layers 0–29"),
        ({"max_new_tokens": 9000}, "max_new_tokens=9000.*room for 8162"),
        ({"prompts": ["word " * 9000]}, "tokens, smollm2-135m reads 8192"),
        ({"token": 7}, "token=7: is outside 'Titanic'; its tokens are 0:'T' 1:'itan' 2:'ic'"),
        ({"token": "Zebra"}, "token='Zebra': is not in"),
        ({"prompts": ["the cat and the dog"], "token": " the"}, None),
        ({"prompts": ["to be or not to be"], "token": "be"}, "token='be': occurs 2 times in .* 1:' be' .* 5:' be'"),
        ({"target_prompt": TargetPrompt("a, b, x", ",")}, "placeholder=',': occurs 2 times"),
    ],
)
def test_what_the_model_lacks_is_said_before_anything_runs(lm, settings, words):
    plan = make_plan(**{"prompts": ["Titanic"]} | settings)
    if words is None:  # " the" with its space stands once; "the" without is another token
        assert plan.items(lm)["position"].unique().tolist() == [3]
        return
    with pytest.raises(InputError, match=words):
        plan.items(lm)


def test_a_token_by_its_text_with_or_without_its_space(lm):
    assert locate("token", "Princess", "Diana, Princess of Wales", lm) == 3
    assert locate("token", " Princess", "Diana, Princess of Wales", lm) == 3
    assert locate("token", -1, "Diana, Princess of Wales", lm) == 5


def test_first_item():
    target = TargetPrompt()
    assert target.first_item(": British rock band, Tesla: American") == "British rock band"
    assert target.first_item("British rock band") == "British rock band"
    assert target.first_item("-box: Chinese console, x") == "-box: Chinese console"
    assert TargetPrompt("a; x", stop="; ").first_item(" : one, two; three") == "one, two"
