"""When a text says a word: word boundaries, numbers where an answer stands, exact targets."""

import pytest

from helpers.bench.rules import contains, exact, names


@pytest.mark.parametrize(
    ("text", "word", "is_named"),
    [
        ("They called it off", "led", False),
        ("He led them", "led", True),
        (": Led Zeppelin", "led", True),
        ("a paragus", "asparagus", False),
        ("a tug of war", "tug-of-war", True),
        ("a tug-of-war", "tug of war", True),
        ("New\nDelhi", "New Delhi", True),
        ("NewDelhi", "New Delhi", False),
        ("blackout", "black", False),
        ("black-out", "black", True),
        ("It’s O’Hare", "o'hare", True),
        ("der Fluß, água", "água", True),
        ("aguas", "água", False),
        ("今日は火曜日です", "火曜日", True),
        ("= 84", "84", True),
        (": 84 of them", "84", True),
        ("the answer is: 84.", "84", True),
        ("there are 84 of them", "84", False),
        ("= 184", "84", False),
        ("= 84.5", "84", False),
        ("2 + 3 = 5, then", "5", True),
        ("sums up 5", "5", False),
        ("result 5", "5", True),
        ("", "word", False),
    ],
)
def test_a_word_is_named_as_a_whole(text, word, is_named):
    assert names(text, word) is is_named


def test_patchscopes_rule_is_letter_for_letter():
    assert contains("is the Dollar.", "Dollar") and contains("Dollars", "Dollar")
    assert not contains("is the dollar.", "Dollar")


def test_exact_targets_are_no_parts_of_longer_ones():
    assert exact(["Golden Gate", "Golden Gate Bridge"]) == ["Golden Gate Bridge"]
    assert exact(["moon", "full-moon", "moonlight"]) == ["full-moon", "moonlight"]
    assert exact(["Boxing", "boxing"]) == ["boxing"] and exact(["5", "multiplication"]) == ["5"]
    assert exact(["product", "price"]) == ["product", "price"]
