"""Which way to read a vector names the right word most often, beside chance with as many tries.

    python -m benchmarks.beside [--model smollm2-135m] [--lens FILE.pt]

A word is right if it is a content word of the prompt's description. Each way has five tries: the five likeliest tokens
of a lens (a word goes by its first token), the first five words of the nearest text of the bank (not the prompt itself
nor its own description) or of a stored reading. Chance: the descriptions of the other prompts, the same readings. The bank holds other prompts' descriptions, which
favours chance for the nearest text; its effect is a lower bound. Intervals over prompts. Writes benchmarks/results/beside.csv.
"""

import argparse
import re
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from helpers.engine.activations import CapturedPrompts
from helpers.judging.chance import others
from helpers.judging.criteria import choose
from helpers.judging.effects import beside_chance
from helpers.judging.judge import SMALL_WORDS
from helpers.lenses.jacobian import load_lens
from helpers.lenses.logit import ranks
from helpers.lenses.neighbours import Bank, read_bank
from helpers.models.load import load_model
from helpers.runs.results import read_results, save_results
from helpers.words.components import Site
from helpers.words.files import results_folder
from helpers.words.lenses import lens_file
from helpers.words.prompts import OUR_PROMPTS, read_gold

TRIES = 5
COMPONENTS = ("mlp_output", "hidden_state")


def words_of(text: str) -> list[str]:
    return [word for word in re.findall(r"\w+", text.lower()) if word not in SMALL_WORDS]


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.beside", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--lens", default="")
    parser.add_argument("--out", default=Path(__file__).parent / "results" / "beside.csv", type=Path)
    options = parser.parse_args()
    lm, gold = load_model(options.model), read_gold(OUR_PROMPTS)
    prompts, folder = list(gold), results_folder(options.model)
    file = lens_file(options.model, options.lens)
    lens = load_lens(file, lm) if file.is_file() else None
    allowed = others([gold[prompt] for prompt in prompts])
    right = [[word for word in re.findall(r"\w+", gold[prompt]) if word.lower() not in SMALL_WORDS] for prompt in prompts]
    every = sorted({word for of in right for word in of})
    within = np.array([[word in of for word in every] for of in right])  # (prompts, words)
    wanted = [set(map(str.lower, of)) for of in right]
    rows = read_results([folder / f"{component}.csv" for component in COMPONENTS])
    layers = sorted(rows["layer"].unique())
    sites = [Site(component, int(layer)) for component in COMPONENTS for layer in layers]
    bank, sources = Bank(lm, read_bank(), sites), CapturedPrompts(lm, prompts)
    vectors = {site: torch.empty(len(prompts), lm.width) for site in sites}
    for number, prompt in enumerate(prompts):
        for site in sites:
            vectors[site][number] = sources[prompt][site.component][site.layer, -1]
    blind = choose(rows)
    plain = rows[rows["amplification value"] == 1]

    def by_words(texts: list[str]) -> np.ndarray:
        said = [set(words_of(text)[:TRIES]) for text in texts]
        return np.array([[bool(own & of) for of in wanted] for own in said])

    def by_lens(read: torch.Tensor) -> np.ndarray:
        told = ranks(lm, read, every).numpy()
        return (((told > 0) & (told <= TRIES)).astype(int) @ within.T) > 0

    def readings(of: pd.DataFrame, site: Site) -> np.ndarray:
        some = of[(of["component"] == site.component) & (of["layer"] == site.layer)].set_index("source prompt")
        return by_words([some.loc[prompt, "first item"] for prompt in prompts])

    def near(site: Site) -> list[str]:
        found = bank.nearest(vectors[site], site, 5, prompts)
        return [next(one.text for one in of if one.text != gold[prompt]) for of, prompt in zip(found, prompts, strict=True)]

    tables: dict[tuple[str, str, int], np.ndarray] = {}
    for site in sites:
        ways = {"logit lens": by_lens(vectors[site]), "nearest text": by_words(near(site))}
        if lens:
            ways["Jacobian lens"] = by_lens(lens.carried(vectors[site], site.layer, lm.num_layers - 1))
        ways |= {"plain reading": readings(plain, site), "blind amplified reading": readings(blind, site)}
        tables |= {(site.component, way, site.layer): table for way, table in ways.items()}
    lines = []
    for component, way in dict.fromkeys((component, way) for component, way, _ in tables):
        of = {layer: tables[component, way, layer] for layer in layers}
        for layer, table in [("all", np.mean(list(of.values()), axis=0)), *of.items()]:
            about = {"component": component, "way": way, "layer": layer, "tries": TRIES}
            lines.append(about | beside_chance(np.asarray(table, float), allowed))
    found = pd.DataFrame(lines)
    found.attrs = {
        "model": lm.slug, "prompts": len(prompts), "bank": len(bank.texts), "lens": dict(lens.provenance) if lens else {},
        "texts of the lens": lens.n_prompts if lens else 0,
    }  # fmt: skip
    save_results(found, options.out)
    print(found[found["layer"] == "all"].drop(columns=["layer"]).to_string(index=False))


if __name__ == "__main__":
    main()
