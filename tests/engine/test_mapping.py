"""Another model reads: an affine map between two models' vectors, what it says of itself, and what it refuses."""

import numpy as np
import pytest
import torch
from families import small_model
from reference import plain_interpret, plain_vector
from sklearn.linear_model import LinearRegression, Ridge

from helpers import InputError
from helpers.engine.activations import capture
from helpers.engine.interpret import interpret
from helpers.engine.mapping import RIDGES, fit_map, identity_for, load_map
from helpers.engine.references import References
from helpers.words.components import Site
from helpers.words.prompts import read_prompts
from helpers.words.target import PAPER_TARGET_PROMPT

PROMPTS = read_prompts("data/prompts.csv")
FIT, HELD = PROMPTS[:36], PROMPTS[36:]
FROM, INTO = Site("hidden_state", 1), Site("hidden_state", 2)


@pytest.fixture(scope="module")
def made(tiny):
    return fit_map(tiny, tiny, FIT, HELD, FROM, INTO, ridge=0)


def test_it_is_the_least_squares_map_and_its_numbers_are_of_held_out_prompts(tiny, made):
    x, y = (np.stack([capture(tiny, prompt)["hidden_state"][layer, -1] for prompt in FIT]).astype(float) for layer in (1, 2))
    u, v = (References(tiny, HELD).vectors(site).numpy().astype(float) for site in (FROM, INTO))
    plain = LinearRegression().fit(x, y)  # 36 points in 32 dimensions: determined
    assert np.allclose(made(torch.tensor(u)).numpy(), plain.predict(u), rtol=1e-3, atol=1e-3)
    about = made.about
    assert about.r2 == pytest.approx(1 - ((plain.predict(u) - v) ** 2).sum() / ((v - y.mean(0)) ** 2).sum(), abs=1e-3)
    assert (about.prompts, about.held_out, about.source_layer, about.target_layer) == (36, 12, 1, 2)
    penalized = fit_map(tiny, tiny, FIT, HELD, FROM, INTO, ridge=1)
    assert penalized.matrix.norm() < made.matrix.norm() and penalized.about.r2 != about.r2


def test_the_ridge_is_what_predicts_each_prompt_best_from_the_others(tiny):
    few, size = FIT[:12], {}
    x, y = (References(tiny, few).vectors(site).double() for site in (FROM, INTO))
    scale = ((x - x.mean(0)) ** 2).mean() * len(few)
    for ridge in RIDGES:
        errors = []
        for out in range(len(few)):
            kept = torch.arange(len(few)) != out
            plain = Ridge(float(ridge * scale)).fit(x[kept], y[kept])
            errors.append(((plain.predict(x[out : out + 1]) - y[out].numpy()) ** 2).mean())
        size[ridge] = np.mean(errors)
    assert fit_map(tiny, tiny, few, HELD, FROM, INTO).about.ridge == min(size, key=size.get)


def test_a_map_of_a_model_onto_itself_is_nearly_perfect(tiny):
    found = fit_map(tiny, tiny, FIT, HELD, FROM, FROM, ridge=0).about
    assert found.r2 > 0.99 and found.cosine > 0.99 > found.cosine_of_others + 0.5


def test_another_model_reads_what_the_plain_way_reads(tiny, lm):
    other = small_model("GPT-2", lm.tokenizer)
    from helpers.models.families import find_parts

    find_parts("GPT-2", other.model, other.device)
    mapped = fit_map(tiny, other, FIT, HELD, FROM, INTO)
    vector = mapped(plain_vector(tiny.model, tiny.tokenizer, "Titanic", "hidden_state", 1, -1))
    captured = mapped(capture(tiny, "Titanic")["hidden_state"][1, -1])
    assert interpret(other, captured[None], 2, max_new_tokens=5) == [
        plain_interpret(other.model, other.tokenizer, vector, 2, PAPER_TARGET_PROMPT, max_new_tokens=5)
    ]
    assert identity_for(tiny, other, captured) is captured
    with pytest.raises(InputError, match="fit a map"):
        identity_for(tiny, lm, captured)
    with pytest.raises(InputError, match="target="):
        mapped.check(tiny, lm)


def test_it_is_saved_with_what_it_was_fitted_on_and_a_broken_file_is_refused(tiny, made, tmp_path):
    made.save(file := tmp_path / "map.safetensors")
    back = load_map(file)
    assert back.about == made.about and torch.equal(back.matrix, made.matrix) and torch.equal(back.bias, made.bias)
    back.check(tiny, tiny)
    with pytest.raises(InputError, match="vectors="):
        back(torch.zeros(3, 5))
    with pytest.raises(InputError, match="no such file"):
        load_map(tmp_path / "none")
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(InputError, match="not a map"):
        load_map(file)


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"prompts": FIT[:9]}, "prompts=9"),
        ({"held_out": FIT[:12]}, "is also among"),
        ({"source_site": Site("hidden_state", 3)}, "source_site=3"),
        ({"target_site": Site("embedding", 0)}, "target_site="),
        ({"ridge": -1}, "ridge="),
    ],
)
def test_what_cannot_be_fitted_is_refused(tiny, more, word):
    given = {"prompts": FIT, "held_out": HELD, "source_site": FROM, "target_site": INTO} | more
    with pytest.raises(InputError, match=word):
        fit_map(tiny, tiny, **given)
