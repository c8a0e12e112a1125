"""The published table of ℓ_c and what is legible before it, recomputed another way: in plain loops, from the files.

Nothing of `helpers` is used but the judge's folder and the numbers that are compared.
"""

import csv
import gzip
import json
import re

import pytest
from sentence_transformers import SentenceTransformer

from helpers import ROOT
from helpers.judging.judge import Judge

MODEL, THRESHOLD, DEEPEST = "qwen2.5-coder-1.5b", 0.3, 7
GRIDS = {"mlp_output": {1, 3, 6, 9, 12, 15}, "hidden_state": {1, 1.3, 1.5, 1.7, 1.9, 2, 3, 4, 5, 6}}
SMALL = (
    "a an and are as at be been but by for from in is it its of on or that the these this those to was were with".split()
)


def lines(name):
    file = ROOT / "data" / MODEL / name
    opened = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rt", encoding="utf-8", newline="") as content:
        return list(csv.DictReader(content))


def words(text):
    return set(re.findall(r"\w+", text.lower()))


def echo(text, prompt):
    item = text.split(", ")[0].removeprefix(":").strip()
    return not words(item) - words(prompt) - set(SMALL)


class Slow:
    """Judges one reading by one description."""

    def __init__(self, texts):
        texts = sorted(set(texts))
        model = SentenceTransformer(str(Judge().folder), device="cpu", local_files_only=True)
        self.vectors = dict(zip(texts, model.encode(texts, batch_size=64, show_progress_bar=False), strict=True))

    def is_legible(self, row, reader, judge, gold):
        if row["status"] != "ok" or echo(row["result"], reader) or echo(row["result"], judge):
            return False
        some, other = self.vectors[row["result"]], self.vectors[gold[judge]]
        return float(some @ other) / float((some @ some) ** 0.5 * (other @ other) ** 0.5) > THRESHOLD


@pytest.mark.slow
def test_the_table_before_context_is_what_a_slow_count_gives():
    with open(ROOT / "data/prompts.csv", encoding="utf-8", newline="") as content:
        prompts = list(csv.DictReader(content))
    gold = {row["prompt"]: row["gold"] for row in prompts}
    category = {row["prompt"]: row["category"] for row in prompts}
    rows = {
        row["id"]: row
        for name in ("before_context.csv.gz", "mlp_output.csv", "hidden_state.csv")
        for row in lines(name)
        if row["source prompt"] in gold
    }.values()
    slow = Slow([row["result"] for row in rows] + list(gold.values()))

    plain = {
        (row["source prompt"], int(row["layer"])): row
        for row in rows
        if row["component"] == "hidden_state" and row["target layer"] == "0" and float(row["amplification value"]) == 1
    }
    deepest = max(layer for _, layer in plain)
    first = {}
    for prompt in gold:
        read = [slow.is_legible(plain[prompt, layer], prompt, prompt, gold) for layer in range(deepest + 1)]
        found = [layer for layer in range(deepest) if read[layer] and read[layer + 1]]
        first[prompt] = found[0] if found else -1
    published = {row["source prompt"]: int(row["first context"]) for row in lines("before_context_found.csv")}
    assert {prompt: published[prompt] for prompt in gold} == first

    about = json.loads((ROOT / "data" / MODEL / "before_context_found.json").read_text(encoding="utf-8"))
    readers = [prompt for prompt in gold if first[prompt] > 0]
    others = {
        "any": lambda reader, judge: gold[judge] != gold[reader],
        "same": lambda reader, judge: gold[judge] != gold[reader] and category[judge] == category[reader],
        "other": lambda reader, judge: category[judge] != category[reader],
    }
    checked = 0
    for component, grid in GRIDS.items():
        for method, is_its in (("Patchscopes", lambda alpha: alpha == 1), ("Superscopes", lambda alpha: alpha != 1)):
            earlier = {}
            for reader in readers:
                before = [
                    row
                    for row in rows
                    if row["source prompt"] == reader
                    and row["component"] == component
                    and row["target layer"] == (row["layer"] if component == "mlp_output" else "0")
                    and float(row["amplification value"]) in grid
                    and is_its(float(row["amplification value"]))
                    and int(row["layer"]) < min(first[reader], DEEPEST + 1)
                ]
                for judge in gold:
                    layers = [int(row["layer"]) for row in before if slow.is_legible(row, reader, judge, gold)]
                    earlier[reader, judge] = first[reader] - min(layers) if layers else 0
            numbers = about["earlier"][component][method]
            assert numbers["n"] == len(readers)
            for name, value in (("legible", lambda layers: layers > 0), ("layers", lambda layers: layers)):
                for null, allowed in others.items():
                    counted = [r for r in readers if any(allowed(r, j) for j in gold)]
                    rate = sum(value(earlier[r, r]) for r in counted) / len(counted)
                    means = []
                    for reader in counted:
                        judged = [value(earlier[reader, judge]) for judge in gold if allowed(reader, judge)]
                        means.append(sum(judged) / len(judged))
                    assert numbers[name][null]["prompts"] == len(counted)
                    assert numbers[name][null]["rate"] == pytest.approx(rate, abs=1e-4)
                    assert numbers[name][null]["null"] == pytest.approx(sum(means) / len(means), abs=1e-4)
                    checked += 1
    assert checked == 24
