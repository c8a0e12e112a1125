"""The prompt files: what a CSV says of its prompts, read as text, and a sentence for every file that is none."""

import pytest

from helpers import InputError
from helpers.words.prompts import read_categories, read_gold, read_prompts


def test_prompts_of_the_paper():
    prompts = read_prompts("data/prompts.csv")
    assert len(prompts) == len(set(prompts)) == 48 and "Diana, Princess of Wales" in prompts
    assert read_prompts("data/prompts.csv", 3) == prompts[:3]
    assert list(read_gold("data/prompts.csv")) == prompts
    assert list(read_gold("data/prompts.csv", 3)) == prompts[:3]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        ("text\nTitanic\n", "no column 'prompt'; its columns are text"),
        ("prompt;gold\nTitanic;ship\n", "no column 'prompt'; its columns are prompt;gold"),
        ("prompt\nTitanic\n  \n", "row 2 is blank"),
        ("prompt\nTitanic,ship\n", "not a CSV file .row 1 has more fields"),
        ('prompt\n"Titanic\n', "not a CSV"),
        (b"prompt\n\xff\xfe\n", "not a CSV"),
    ],
)
def test_unreadable_prompts(tmp_path, content, words):
    if content is not None:
        (tmp_path / "p.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=f"prompts=.*{words}"):
        read_prompts(tmp_path / "p.csv")


@pytest.mark.parametrize("content", ["", "\n", "prompt\n"])
def test_a_file_without_prompts_is_refused(tmp_path, content):
    (tmp_path / "p.csv").write_text(content)
    with pytest.raises(InputError, match="prompts="):
        read_prompts(tmp_path / "p.csv")


def test_prompts_with_a_mark_and_windows_lines(tmp_path):
    (tmp_path / "p.csv").write_bytes(b'\xef\xbb\xbfprompt\r\nNA\r\n"a, b"\r\n007\r\n')
    assert read_prompts(tmp_path / "p.csv") == ["NA", "a, b", "007"]


def test_what_a_file_says_of_its_prompts(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text('prompt,gold,category\nTitanic,"ship, sunk",film\nNA,NA,\n')
    assert read_gold(path) == {"Titanic": "ship, sunk", "NA": "NA"}
    assert read_gold(path, 1) == {"Titanic": "ship, sunk"}
    with pytest.raises(InputError, match="prompts=.*row 2 has no category"):
        read_categories(path)
    path.write_text("prompt,gold\nTitanic,\n")
    with pytest.raises(InputError, match="prompts=.*row 1 has no gold"):
        read_gold(path)
    path.write_text("prompt\nTitanic\n")
    assert read_gold(path) == read_categories(path) == {}


@pytest.mark.parametrize("number", [-1, 1.5, "3", True, None])
def test_a_number_of_prompts_is_whole(number):
    with pytest.raises(InputError, match="num_prompts="):
        read_prompts("data/prompts.csv", number)
