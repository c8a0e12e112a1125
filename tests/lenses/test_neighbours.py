"""Neighbours equal a plain search, text by text."""

import pytest
import torch

from helpers import InputError
from helpers.engine.activations import capture
from helpers.lenses import neighbours
from helpers.lenses.neighbours import Bank, read_bank
from helpers.words.components import COMPONENTS, Site

TEXTS = ["a rock band", "Pink Floyd", "a river in France", "the king of soup", "Star Wars", "a film", "tea"]


def brute_force(lm, texts, vector, site):
    """Return (text, cosine) of every text, the nearest first, one by one and without the bank."""
    read = {text: capture(lm, text)[site.component][site.layer, -1].double() for text in texts}
    mean = sum(read.values()) / len(read)
    cosine = {text: torch.dot(one - mean, vector.double() - mean) / (one - mean).norm() / (vector - mean).norm() for text, one in read.items()}
    return sorted(cosine.items(), key=lambda pair: -pair[1])


@pytest.mark.parametrize("component", COMPONENTS)
def test_they_are_those_of_a_plain_search(tiny, component, monkeypatch):
    monkeypatch.setattr(neighbours, "TEXTS", 3)
    sites = [Site(component, layer) for layer in (0, 2)]
    bank = Bank(tiny, [*TEXTS, "tea"], sites)
    for site in sites:
        vectors = torch.stack([capture(tiny, prompt)[component][site.layer, -1] for prompt in ("Led Zeppelin", "tea", "a pot", "cup")])
        for vector, found in zip(vectors, bank.nearest(vectors, site, k=4), strict=True):
            wanted = brute_force(tiny, TEXTS, vector, site)[:4]
            assert [text for text, _ in found] == [text for text, _ in wanted]
            assert [cosine for _, cosine in found] == pytest.approx([float(cosine) for _, cosine in wanted], abs=1e-4)
        assert bank.nearest(vectors, site, k=1)[1][0] == ("tea", pytest.approx(1, abs=1e-4))
        left_out = bank.nearest(vectors, site, k=99, without=["", "tea", "", ""])
        assert [len(found) for found in left_out] == [7, 6, 7, 7] and "tea" not in [text for text, _ in left_out[1]]


def test_the_bank_of_the_suite_and_any_file(tmp_path):
    ours = read_bank()
    assert {"Pink Floyd", "English rock band", "Isaac Newton"} <= set(ours) and len(ours) == len(set(ours)) > 400
    (tmp_path / "bank.txt").write_text("one\n\n two \none\n")
    assert read_bank(str(tmp_path / "bank.txt")) == ["one", "two"]
    with pytest.raises(InputError, match="bank='nowhere.txt': can't be read"):
        read_bank("nowhere.txt")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda tiny, bank: Bank(tiny, ["tea", "tea"], []), "texts=1: expected at least 2"),
        (lambda tiny, bank: Bank(tiny, ["tea", " "], []), "texts=' ': expected a text"),
        (lambda tiny, bank: Bank(tiny, TEXTS, [Site("mlp_output", 3)]), "a layer of 0–2"),
        (lambda tiny, bank: bank.nearest(torch.zeros(1, 32), Site("mlp_output", 1)), "the bank has mlp_output 0"),
        (lambda tiny, bank: bank.nearest(torch.zeros(1, 5), Site("mlp_output", 0)), r"expected shape \(n, 32\)"),
        (lambda tiny, bank: bank.nearest(torch.zeros(1, 32), Site("mlp_output", 0), k=0), "k=0: expected"),
        (lambda tiny, bank: bank.nearest(torch.zeros(1, 32), Site("mlp_output", 0), without=["a", "b"]), "without=2"),
    ],
)
def test_wrong_input_is_refused(tiny, call, words):
    with pytest.raises(InputError, match=words):
        call(tiny, Bank(tiny, TEXTS, [Site("mlp_output", 0)]))
