"""The grammar of expressions: what is understood, what is refused, and what an id sees of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import InputError
from helpers.words.expressions import Mean, Sum, Term, Unit, Weight, parse, parse_all

KING, MAN = Term(("King",)), Term(("Man",))


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ('"King"', KING),
        ("'King'", KING),
        ('"King" - "Man"', Sum(((1, KING), (-1, MAN)))),
        ('2 * ("King" - "Man") / 4', Sum(((0.5, KING), (-0.5, MAN)))),
        ('-"King" * -(1 + 1)', Sum(((2, KING),))),
        ('"King" - ("Man" - "King")', Sum(((1, KING), (-1, MAN), (1, KING)))),
        ('unit("King") + 3 * mean("King", "Man")', Sum(((1, Unit(KING)), (3, Mean((KING, MAN)))))),
        ('"King"(token=" x", layer=3, component=mlp_output)', Term(("King",), "mlp_output", 3, " x")),
        ('"King"(token=-2)', Term(("King",), token=-2)),
        ("mlp.down[5, 17]", Weight("mlp.down", (5, 17))),
        ('embedding["cat"] - head[3]', Sum(((1, Weight("embedding", ("cat",))), (-1, Weight("head", (3,)))))),
    ],
)  # fmt: skip
def test_an_expression_is_understood_and_written_so_that_it_is_understood_again(text, node):
    assert parse(text).node == node
    assert parse(str(parse(text))).node == node


@pytest.mark.parametrize(
    ("text", "part", "why"),
    [
        ("King", "King", "prompts in quotes"),
        ("3", "3", "a number is no vector"),
        ('"a" + 1', "+ 1", "have no sum"),
        ('"a" * "b"', "*", "a factor is a number"),
        ('"a" / 0', "/ 0", "other than 0"),
        ('0 * "a"', "0", "other than 0"),
        ('1e999 * "a"', "1e999", "finite"),
        (f'{10**400} * "a"', "1000", "finite"),
        ('1e200 * (1e200 * "a")', "1e200", "beyond every number"),
        ('"b" - 1e-200 * (1e-200 * "a")', "1e-200", "multiply to 0"),
        ("mlp.up[0, 0:60000]; mlp.up[1, 0:60000]", "mlp.up[0", "at most 100,000 vectors"),
        ('"a" ** 2', "**", "expected"),
        ('"a" - ""', "", "not empty"),
        ('"a"(layer=-1)', "layer=-1", "from 0"),
        ('"a"(layer=1, layer=2)', "", "layer"),
        ('"a"(colour=1)', "colour", "component, layer, token"),
        ('"a"(component=mlp)', "mlp", "mlp_output"),
        ('"a"(token=1.5)', "1.5", "text of a token"),
        ("mlp.down[5]", "mlp.down[5]", "mlp.down[layer, neuron]"),
        ("mlp.down[5, -1]", "-1", "from 0"),
        ("mlp.across[5, 1]", "mlp.across", "mlp.down"),
        ("mlp.down[5, 3:]", "3:", "first:end"),
        ('"a" + mlp.down[5, 1:3]', "1:3", "from 0"),
        ('prompts("data/prompts.csv")', "prompts", "mean(prompts"),
        ('mean(prompts("nowhere.csv"))', "nowhere.csv", "no such file"),
        ('mean(prompts("data/prompts.csv", column="nope"))', "prompts.csv", "no column 'nope'"),
        ("mean()", "mean()", "expected"),
        ('unit("a", "b")', "unit", "expected"),
        ('f"{1}"', "", "expected"),
        ('__import__("os").system("true")', "__import__", "expected"),
        ("().__class__", "__class__", "expected"),
        ('[x for x in "a"]', "for", "expected"),
        ('x = "a"', "x = ", "expected"),
        ('"a" -', "-", "invalid syntax"),
        ('"a', '"a', "unterminated"),
        ("-" * 3000 + '"a"', "---", "too deeply"),
        ('"a" + ' * 3000 + '"a"', "…", "at most 10,000"),
        (" ", " ", "not empty"),
        (";", ";", "expected"),
    ],
)
def test_anything_else_is_refused_with_the_part_and_a_reason(text, part, why):
    with pytest.raises(InputError) as refusal:
        parse(text)
    assert why in str(refusal.value) and part.strip("…") in str(refusal.value).replace("\\", "")


def test_several_stand_for_several_and_repeated_ones_for_one():
    found = parse_all('"a"; "b" - "c;d"; mlp.up[1, 3:5]; head[7:9]; "a"')
    assert list(map(str, found)) == ['"a"', '"b" - "c;d"', "mlp.up[1, 3]", "mlp.up[1, 4]", "head[7]", "head[8]"]
    with pytest.raises(InputError, match="2 expressions, not one"):
        parse('"a"; "b"')


def test_layers_and_openness():
    open_, closed = parse('"a"(layer=2) - "b"'), parse("mlp.down[3, 1] - head[1]")
    assert (open_.layers, open_.is_open) == ({2}, True)
    assert (closed.layers, closed.is_open) == ({3}, False)


def test_a_mean_of_a_file_takes_its_prompts_and_the_key_sees_them(tmp_path):
    file = tmp_path / "pos.csv"
    file.write_text('prompt,other\nGood day,Bad day\n"Yes, please","No, thanks"\n')
    text = f'mean(prompts("{file}", token=0)) - mean(prompts("{file}", column="other"))'
    expression = parse(text)
    assert [term.prompts for term in expression.terms] == [("Good day", "Yes, please"), ("Bad day", "No, thanks")]
    assert str(expression) == text
    file.write_text('prompt,other\nGood day,Bad day\n"Yes, please","No, thank you"\n')
    assert parse(text).key != expression.key and str(parse(text)) == text


def test_the_key_sees_all_that_the_numbers_depend_on():
    texts = ('"a"', '"a"(layer=1)', '"a"(token=0)', '"a"(component=mlp_output)', '2 * "a"', '2.0000001 * "a"', '-"a"')
    keys = [parse(text).key for text in texts] + [parse('"a"', "mlp_output").key]
    assert len(set(keys)) == len(keys)
    assert parse(" 'a'").key == parse('+"a"').key == parse('"a"').key


@given(st.text(max_size=40))
def test_any_text_is_an_expression_or_refused(text):
    try:
        found = parse_all(text)
    except InputError:
        return
    assert [parse(str(one)) for one in found] == found


@given(st.text(min_size=1, max_size=20).filter(str.strip).filter(lambda text: "\0" not in text and text.isprintable()))
def test_any_prompt_can_be_quoted(prompt):
    import json

    quoted = json.dumps(prompt, ensure_ascii=False)
    assert parse(quoted).node == Term((prompt,))
