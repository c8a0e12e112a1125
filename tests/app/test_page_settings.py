"""What a visitor asks for: links, wrong input, the placeholder's mark, two models' tokens."""

from urllib.parse import parse_qsl

import pytest
from serving import PROMPT, usual_settings
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from helpers import InputError
from helpers.app.settings import COLUMNS, MARKED, MOST_ROWS, PageSettings, same_tokens
from helpers.models.load import ModelCard
from helpers.words.components import COMPONENTS
from helpers.words.target import TargetPrompt


@pytest.fixture
def usual(tiny_folder):
    return usual_settings(tiny_folder)


def of_link(link: str, **usual) -> PageSettings:
    return PageSettings.of_link(dict(parse_qsl(link.removeprefix("?"))), **usual)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tokens": (0, 3), "layers": "all", "target_layer": "0", "amplifiers": "1:2:0.5, 7", "max_new_tokens": 3},
        {"prompt": "a & b = “c” 100%?#+ñ\n<script>", "components": ("attention_output",), "threshold": -0.25},
        {"target_prompt": "Oslo: Capital of {Norway}, and more", "model": "some/where"},
        {"layers": "1-2,depth:0.5", "amplifiers": "1:15:0.5", "tokens": (-2,)},
    ],
)
def test_a_link_restores_every_setting(usual, changes):
    settings = usual.replace(**changes)
    assert of_link(settings.link()) == settings


def test_links_of_earlier_versions_still_work():
    link = (
        "?prompt=Kill+Bill&model=smollm2-135m&tokens=0%2C-1&components=pre_mlp_residual%2Cmlp_output%2Cattention_output"
        "&layers=1-3%2C9&target_layer=0&amplifiers=1%2C+1.5%3A2%3A0.25&max_new_tokens=7&threshold=0.25&run=x"
    )
    assert dict(of_link(link)) == {
        "prompt": "Kill Bill", "model": "smollm2-135m", "tokens": (0, -1),
        "components": ("pre_mlp_residual", "mlp_output", "attention_output"), "layers": "1-3,9", "target_layer": "0",
        "amplifiers": "1, 1.5:2:0.25", "target_prompt": MARKED, "max_new_tokens": 7, "threshold": 0.25,
    }  # fmt: skip
    assert of_link("?token=2").tokens == (2,)  # as the command line calls it


def test_a_link_with_a_wrong_setting_is_reported_and_other_names_are_passed_over():
    assert of_link("?nonsense=1&prompt=Titanic") == PageSettings.of({"prompt": "Titanic"})
    for link, message in (
        ("?tokens=1,x", r"tokens=\[1, 'x'\]: choose at least one token"),
        ("?layers=x", "layers='x'"),
        ("?max_new_tokens=long", "max_new_tokens='long'"),
    ):
        with pytest.raises(InputError, match=message):
            of_link(link)


def test_every_component_that_a_block_records_is_a_column():
    assert set(COLUMNS) == set(COMPONENTS)
    every = PageSettings.of({"components": COMPONENTS})
    assert every.components == COLUMNS  # in the paper's order, however they are given


@pytest.mark.parametrize(
    "given, kept",
    [
        ({"amplifiers": [1, 1.5]}, "1.0, 1.5"),
        ({"amplifiers": 3}, "3.0"),
        ({"layers": [1, 2]}, "1,2"),
        ({"layers": 2}, "2"),
        ({"target_layer": 0}, "0"),
        ({"target_layer": " same "}, "same"),
    ],
)
def test_a_program_may_give_numbers_instead_of_texts(given, kept):
    [name] = given
    assert getattr(PageSettings.of(given), name) == kept


WRONG = [
    ({"prompt": "  "}, "prompt='  ': type a prompt first"),
    ({"prompt": 5}, "prompt=5: expected text"),
    ({"prompt": "x" * 10_000_000}, "10,000,000 characters; at most 20,000"),
    ({"prompt": "Wales " * 100}, "tokens, .* reads 64"),
    ({"prompt": "a\0b"}, "NUL"),
    ({"layers": "1-99"}, "layers=99: this model has layers 0–2"),
    ({"layers": ""}, "layers=''"),
    ({"amplifiers": "nan"}, "amplifiers='nan': expected finite numbers, or from:to:step"),
    ({"amplifiers": "1, inf"}, "amplifiers='inf'"),
    ({"amplifiers": ""}, "amplifiers=.*at least one"),
    ({"amplifiers": "1:1e9:0.001"}, "at most 10,000 numbers"),
    ({"amplifiers": "5:1:1"}, "a step that leads there"),
    ({"amplifiers": "1:5:0"}, "a step that leads there"),
    ({"components": ()}, "components=.*at least one"),
    ({"components": ("logits",)}, "components=.'logits'.: choose at least one of pre_mlp_residual"),
    ({"components": ("mlp_output", "random[mlp_output]")}, "components=.*choose at least one of"),
    ({"amplifiers": "1," * 5000}, "10,000 characters; at most 2,000"),
    ({"amplifiers": "1:9000:1, 1:9000:1"}, "more than 10,000"),
    ({"tokens": ()}, "tokens=.*at least one token"),
    ({"tokens": (77,)}, "token=77: is outside"),
    ({"tokens": ("Wales",)}, "tokens=.*at least one token"),
    ({"target_layer": "-1"}, "target_layer=-1"),
    ({"target_layer": "3"}, "target_layer=3: this model has layers 0–2"),
    ({"target_layer": [0, 1]}, "target_layer=.0, 1.: the page patches into one layer"),
    ({"max_new_tokens": 0}, "max_new_tokens=0"),
    ({"max_new_tokens": None}, "max_new_tokens=None: expected a whole number"),
    ({"max_new_tokens": 60}, "room for"),
    ({"threshold": float("nan")}, "threshold=nan"),
    ({"threshold": None}, "threshold=None: expected a number"),
    ({"target_prompt": "half {a mark"}, "mark its placeholder, one word"),
    ({"target_prompt": "{Scaramucci} is"}, "mark one whole token; they are"),
    ({"amplifiers": "1:5000:1"}, f" readings; at most {MOST_ROWS:,} here"),
]


@pytest.mark.parametrize("changes, message", WRONG)
def test_bad_input_is_a_sentence_that_names_the_setting(tiny, usual, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        usual.replace(**changes).plan(tiny).items(tiny)
    assert "\n" not in str(caught.value).replace("\\n", "") and len(str(caught.value)) < 800


def test_tokens_by_a_text_are_those_of_the_command_line(tiny, usual):
    assert usual.at("-2:, 1-2, every 3rd, 0", tiny).tokens == (4, 5, 1, 2, 0)  # the third and the sixth of six
    for text, message in (("9-12", "no tokens there"), ("x:", "is not in"), ("1," * 2000, "at most 2,000")):
        with pytest.raises(InputError, match=message):
            usual.at(text, tiny)


def test_braces_mark_the_placeholder(tiny, usual):
    assert usual.plan(tiny).target_prompt == TargetPrompt()
    marked = usual.replace(target_prompt="Oslo: Capital of {Norway}, and more").plan(tiny).target_prompt
    assert (marked.text, marked.placeholder) == ("Oslo: Capital of Norway, and more", 5)
    assert usual.replace(target_prompt="Oslo: Capital of").plan(tiny).target_prompt.placeholder == -1


def test_the_python_lines_say_what_was_typed(tiny, usual):
    lines = usual.replace(amplifiers="1:15:0.5", tokens=(0, 2)).python(tiny, "bfloat16")
    assert lines.startswith("from helpers import believe, load_model, sweep\n") and "\nchosen = believe(lm, rows)" in lines
    assert "believe" not in usual.replace(target_prompt="Oslo: Capital of {Norway}, and").python(tiny, "bfloat16")
    for part in ("amplifiers='1:15:0.5'", "token=[0, 2]", "target_layer='same'", "dtype='bfloat16'", repr(PROMPT)):
        assert part in lines


def test_two_models_read_the_same_pieces_of_a_prompt(tiny):
    assert same_tokens(PROMPT, (-1, 0), tiny, tiny) == (5, 0)
    with_bos = AutoTokenizer.from_pretrained(tiny.source.folder)
    bos = "<|endoftext|>"
    with_bos._tokenizer.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 0)])
    other = ModelCard(tiny.source, tiny.config, with_bos)
    assert len(other.token_ids(PROMPT)) == 7 and same_tokens(PROMPT, (-1, 0, 3), tiny, other) == (6, 1, 4)
    words = Tokenizer(WordLevel({"Diana": 0, ",": 1, "Princess": 2, "of": 3, "Wales": 4, "?": 5}, unk_token="?"))
    words.pre_tokenizer = Whitespace()
    other = ModelCard(tiny.source, tiny.config, PreTrainedTokenizerFast(tokenizer_object=words))
    assert same_tokens(PROMPT, (-1, 1), tiny, other) == (4, 0)
    with pytest.raises(InputError, match="splits the prompt elsewhere: 'Diana'"):
        same_tokens(PROMPT, (0,), tiny, other)  # "D"
