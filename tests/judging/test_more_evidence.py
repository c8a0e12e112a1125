"""What costs more to ask, against a plain way: a hook and a pass of the whole text for each reading and reference."""

import math

import numpy as np
import pytest
import torch
from reference import blocks_of

from helpers import InputError
from helpers.engine.activations import capture
from helpers.engine.interpret import interpret
from helpers.engine.teacher import score_texts
from helpers.engine.vectors import as_seed
from helpers.judging.more_evidence import MORE_EVIDENCE, SAMPLES, MoreWitness
from helpers.runs.sweep import sweep
from helpers.words.decoding import Sampling
from helpers.words.prompts import LEAST_REFERENCES, read_prompts
from helpers.words.target import TargetPrompt

REFERENCES = read_prompts("data/prompts.csv", 13)
TOKENS = 4


@pytest.fixture(scope="module")
def read(tiny):
    """Readings of a prompt that is a reference and of one that isn't, in two components and ways."""
    components = ["mlp_output", "hidden_state", "norm[hidden_state]"]
    prompts = [REFERENCES[0], "Diana, Princess of Wales"]
    rows = sweep(tiny, prompts, components, [1, 2], [1, 3], max_new_tokens=TOKENS)
    rows.loc[0, ["status", "result", "first item"]] = ["nonfinite", "", ""]
    return rows


@pytest.fixture(scope="module")
def found(tiny, read):
    return MoreWitness(tiny, REFERENCES, max_new_tokens=TOKENS).of(read)


def put(lm, row, vectors):
    """Return what stands at the placeholder when these vectors, (layers, width) of some prompts, are the row's source."""
    vector, alpha = vectors[row["component"].removeprefix("norm[").rstrip("]")], row["amplification value"]
    if not row["component"].startswith("norm["):
        return alpha * vector
    own = capture(lm, TargetPrompt().text).hidden_state[row["target layer"], -1].float()
    return alpha * own.norm() * vector / vector.norm()


def at(lm, prompt, layer):
    found = capture(lm, prompt)
    return {name: found[name][layer, -1].float() for name in ("mlp_output", "hidden_state")}


@torch.no_grad()
def logits_of(lm, vector, target_layer, tokens):
    """Return the logits after the target prompt and after each of some tokens, with the vector at the placeholder."""
    prompt = lm.token_ids(TargetPrompt().text)

    def overwrite(module, args, output):
        (output[0] if isinstance(output, tuple) else output)[0, len(prompt) - 1] = vector

    handle = blocks_of(lm.model)[target_layer].register_forward_hook(overwrite)
    try:
        return lm.model(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 :].float()
    finally:
        handle.remove()


def log_prob(lm, vector, target_layer, text):
    tokens = lm.tokenizer(text, add_special_tokens=False).input_ids
    steps = logits_of(lm, vector, target_layer, tokens)[:-1].log_softmax(-1)
    return [steps[number, token].item() for number, token in enumerate(tokens)]


def sampled(lm, vector, target_layer, seed):
    """Draw token by token from the whole distribution: the largest of p_i / e_i, e_i exponential, is i with p_i."""
    generator, written = torch.Generator().manual_seed(seed), []
    while len(written) < TOKENS:
        p = logits_of(lm, vector, target_layer, written)[-1].softmax(-1)
        uniform = torch.empty(len(p)).uniform_(generator=generator)
        token = int((p / (-torch.log1p(-uniform)).clamp(min=1e-9)).argmax())
        if token in lm.stop_tokens:
            break
        written.append(token)
    return TargetPrompt().first_item(lm.tokenizer.decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def test_it_equals_a_plain_way(tiny, read, found):
    assert list(found) == list(MORE_EVIDENCE) and found.index.equals(read.index)
    says = (read["first item"] != "") & (read["status"] == "ok")
    assert found[says].notna().all(axis=None) and found[~says].isna().all(axis=None) and says.sum() > 8
    drawn = sorted(REFERENCES, key=lambda prompt: as_seed(f"reference {prompt}"))
    for index in read.index[says][::5]:
        row = read.loc[index]
        prompt, layer, target = row["source prompt"], row["layer"], row["target layer"]
        text = row["result"][: row["result"].index(row["first item"]) + len(row["first item"])]
        own = put(tiny, row, at(tiny, prompt, layer))
        of_own = log_prob(tiny, own, target, text)
        others = [at(tiny, other, layer) for other in REFERENCES if other != prompt]
        mean = {name: torch.stack([one[name] for one in others]).mean(0) for name in others[0]}
        of_mean = log_prob(tiny, put(tiny, row, mean), target, text)
        assert found.loc[index, "pmi_mean"] == pytest.approx(np.mean(of_own) - np.mean(of_mean), abs=1e-3)
        some = [other for other in drawn if other != prompt][:LEAST_REFERENCES]
        each = [math.exp(sum(log_prob(tiny, put(tiny, row, at(tiny, other, layer)), target, text))) for other in some]
        assert len(each) == 10
        assert found.loc[index, "specificity"] == pytest.approx(sum(of_own) - math.log(np.mean(each)), abs=2e-3)
        items = [sampled(tiny, own, target, as_seed(f"sample {number} of {row['id']}")) for number in range(SAMPLES)]
        commonest = max(items.count(item) for item in items if item)
        assert found.loc[index, "consistency"] == commonest / 8
    assert found.loc[says, "consistency"].between(0, 1).all()


def test_it_comes_out_the_same_in_other_company_and_never_sees_a_score(tiny, read, found):
    other = read.assign(score=0.5, **{"score gold": 0.1}).sample(frac=0.4, random_state=0)
    again = MoreWitness(tiny, REFERENCES, max_new_tokens=TOKENS).of(other)
    assert np.allclose(again, found.loc[other.index], atol=1e-3, equal_nan=True)


def test_too_few_references_are_refused(tiny):
    with pytest.raises(InputError, match="references=10: evidence needs at least 10 other prompts"):
        MoreWitness(tiny, REFERENCES[:10])


def test_it_is_of_where_a_vector_was_put(tiny):
    """Inside a block, a reference's vector stands where the reading's own stood."""
    rows = sweep(tiny, ["Titanic"], "mlp_output", 2, [1, 9], target_layer=1, target_component="mlp_output", max_new_tokens=TOKENS)
    rows = rows[rows["first item"] != ""]
    found = MoreWitness(tiny, REFERENCES, max_new_tokens=TOKENS).of(rows)
    own = at(tiny, "Titanic", 2)["mlp_output"]
    mean = torch.stack([at(tiny, other, 2)["mlp_output"] for other in REFERENCES if other != "Titanic"]).mean(0)
    for index, row in rows.iterrows():
        text = row["result"][: row["result"].index(row["first item"]) + len(row["first item"])]
        given = row["amplification value"] * torch.stack([own, mean])
        mine, means = score_texts(tiny, given, 1, [text] * 2, target_component="mlp_output").log_prob.tolist()
        assert found.loc[index, "pmi_mean"] == pytest.approx(mine - means, abs=1e-3)
        seeds = [as_seed(f"sample {number} of {row['id']}") for number in range(SAMPLES)]
        shared = {"target_component": "mlp_output", "decoding": Sampling(1.0, 1.0), "seeds": seeds}
        items = [TargetPrompt().first_item(one) for one in interpret(tiny, given[:1].expand(SAMPLES, -1), 1, None, TOKENS, **shared)]
        assert found.loc[index, "consistency"] == max(items.count(item) for item in items if item) / SAMPLES


def test_a_span_is_refused(tiny):
    span = TargetPrompt("Oslo: Capital of Norway, x x", placeholder=("x",), span=True)
    with pytest.raises(InputError, match="target_prompt='custom-.*several tokens of a span"):
        MoreWitness(tiny, REFERENCES, span)
