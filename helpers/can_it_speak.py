"""Before a long sweep on a new model: can it describe what it knows, and from which layer are its vectors read?"""

import resource
import sys
from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from transformers import DynamicCache

from . import InputError
from .activations import capture_batch
from .decoding import greedy
from .engine import PatchedPrompt, until_stop
from .models import LanguageModel
from .plans import TargetPrompt
from .scoring import THRESHOLD, embed, is_echo, success_counts
from .superscopes import interpret

PAPER_ROWS = 48 * 7 * (6 + 10)  # the two evaluations of Figure 3


@torch.inference_mode()
def describe_named(
    lm: LanguageModel, entities: Sequence[str], target_prompt: TargetPrompt, max_new_tokens: int
) -> list[str]:
    """What the model writes when each entity stands in the target prompt as plain text, in place of the placeholder.

    What readings of its vectors can be compared with. Greedy; texts of the same length share a batch, so that nothing
    is padded.

    Raises:
        InputError: the target prompt doesn't end in its placeholder.
    """
    *before, last = lm.decoded_tokens(target_prompt.text)
    if target_prompt.placeholder not in (-1, len(before), last, last.strip()):
        raise InputError("target_prompt", target_prompt.text, "expected to end in its placeholder")
    start = target_prompt.text.removesuffix(last.strip())
    ids = [lm.token_ids(start + entity) for entity in entities]
    written: dict[int, str] = {}
    for length in sorted({len(one) for one in ids}):
        same = [number for number, one in enumerate(ids) if len(one) == length]
        given = torch.tensor([ids[number] for number in same], device=lm.device)
        cache, tokens = DynamicCache(config=lm.model.config), []
        for _ in range(max_new_tokens):
            given = greedy(lm.model(given, past_key_values=cache, logits_to_keep=1).logits[:, -1])[1][:, None]
            tokens.append(given)
        texts = [until_stop(row, lm.stop_tokens) for row in torch.cat(tokens, 1).tolist()]
        written |= dict(zip(same, lm.tokenizer.batch_decode(texts, skip_special_tokens=True), strict=True))
    return [written[number] for number in range(len(entities))]


def null_readings(
    lm: LanguageModel, norm: float, target_prompt: TargetPrompt, max_new_tokens: int, draws: int = 3
) -> list[tuple[str, str]]:
    """What the model writes with nothing, zeros and random vectors in place of the placeholder, at layer 0.

    Args:
        norm: of the random vectors: that of the vectors which they stand for.

    Returns:
        (component, text): `none` and `zero` once, `random` for seeds 0, 1, …
    """
    own = capture_batch(lm, [target_prompt.text])[0]["hidden_state"][0, -1].float().cpu()  # patched onto itself
    vectors = [own, torch.zeros(lm.width)]
    for seed in range(draws):
        drawn = torch.randn(lm.width, generator=torch.Generator().manual_seed(seed))
        vectors.append(norm * drawn / drawn.norm())
    texts = interpret(lm, torch.stack(vectors), 0, target_prompt, max_new_tokens)
    return list(zip(["none", "zero", *["random"] * draws], texts, strict=True))


def norms_by_layer(lm: LanguageModel, prompts: Sequence[str], target_prompt: TargetPrompt) -> pd.DataFrame:
    """Norms that amplifiers are chosen by: columns layer, hidden_state, mlp_output (medians over the prompts' last
    tokens) and placeholder (of the placeholder's own hidden state, which a vector replaces)."""
    last = [[one[name][:, -1].float().norm(dim=-1).cpu() for name in ("hidden_state", "mlp_output")]
            for one in capture_batch(lm, prompts)]  # fmt: skip
    hidden, mlp = (torch.stack(of_all).median(0).values.tolist() for of_all in zip(*last, strict=True))
    own = PatchedPrompt(lm, target_prompt, 1).placeholder_norms.tolist()
    return pd.DataFrame({"layer": range(lm.num_layers), "hidden_state": hidden, "mlp_output": mlp, "placeholder": own})


def rho_by_layer(norms: pd.DataFrame, amplifiers: Sequence[float] = (1, 3, 6, 9, 12, 15)) -> pd.DataFrame:
    """ρ = ‖α·v‖ / ‖the placeholder's own hidden state‖ of typical vectors, for the paper's grid of amplifiers (§4.1).

    Returns:
        Columns component, target (MLP outputs into the same layer, hidden states into layer 0), layer, amplifier, rho.
    """
    own = norms["placeholder"]
    tables = [
        pd.DataFrame(
            {
                "component": component,
                "target": target,
                "layer": norms["layer"],
                "amplifier": amplifier,
                "rho": amplifier * norms[component] / (own if target == "same" else own.iloc[0]),
            }
        )
        for component, target in (("mlp_output", "same"), ("hidden_state", "0"))
        for amplifier in amplifiers
    ]
    return pd.concat(tables, ignore_index=True)


def judge_named(entities: Mapping[str, str], texts: Sequence[str], target_prompt: TargetPrompt) -> pd.DataFrame:
    """Columns entity, gold, text (first item), similarity to the gold description, described (above the threshold).

    `.attrs["by_chance"]`: how many would be described if each text were judged by another entity's gold description,
    the mean and the 97.5 % point over all rotations.
    """
    items = [target_prompt.first_item(text) for text in texts]
    table = pd.DataFrame({"entity": list(entities), "gold": list(entities.values()), "text": items})
    rows = table.assign(**{"source prompt": table["entity"], "layer": 0, "amplification value": 1, "component": "none"})
    rows["status"] = ["echo" if is_echo(item, entity) else "ok" for item, entity in zip(items, entities, strict=True)]
    counts = success_counts(rows.rename(columns={"text": "result"}), gold=entities)[0].iloc[0]
    cosines = (embed(items) * embed(list(entities.values()))).sum(1)
    table["similarity"] = [round(float(cosine), 3) for cosine in cosines]
    table["described"] = (cosines > THRESHOLD) & (rows["status"] == "ok")
    table.attrs["by_chance"] = {"mean": float(counts["null_mean"]), "high": int(counts["null_high"])}
    return table


def judge_readings(rows: pd.DataFrame, gold: Mapping[str, str], target_prompt: TargetPrompt) -> pd.DataFrame:
    """Entities read per layer (`scoring.success_counts`): similarity to the gold description above the threshold, and
    not an echo."""
    items = [target_prompt.first_item(text) for text in rows["result"]]
    echoes = [is_echo(item, prompt) for item, prompt in zip(items, rows["source prompt"], strict=True)]
    judged = rows.assign(result=items, status=rows["status"].mask(echoes, "echo"))
    return success_counts(judged, gold=gold)[0]


def layers_above_chance(counts: pd.DataFrame) -> str:
    """The layers in which more entities are read than by chance in any layer, as "1–7, 9", or "".

    The limit is the largest of all layers' 97.5 % points: of many layers tested one by one, some would pass by luck.
    """
    above = counts.loc[counts["interpreted"] > counts["null_high"].max(), "layer"]
    runs = above.groupby((above.diff() != 1).cumsum())
    return ", ".join(str(run.min()) if len(run) == 1 else f"{run.min()}–{run.max()}" for _, run in runs)


def cost(lm: LanguageModel, rows: int, seconds: float) -> dict[str, float]:
    """Memory so far, and the minutes of the paper's two evaluations at the speed of so many rows in so many seconds."""
    weights = sum(weight.numel() * weight.element_size() for weight in lm.model.parameters())
    if lm.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(lm.device)
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    speed = rows / max(seconds, 0.01)
    return {
        "rows per second": round(speed, 1),
        "minutes of Figure 3": round(PAPER_ROWS / speed / 60, 1),
        "GiB of weights": round(weights / 2**30, 2),
        "GiB at most": round(peak / 2**30, 2),
    }


def verdict(named: pd.DataFrame, counts: pd.DataFrame, norms: pd.DataFrame, costs: Mapping[str, float]) -> list[str]:
    """What the report says, in plain sentences, the conclusion first."""
    n, described, chance = len(named), int(named["described"].sum()), named.attrs["by_chance"]
    above = layers_above_chance(counts)
    read = counts.set_index("layer")["interpreted"]
    in_two = (read + read.shift(-1)).where(read.index.diff(-1) == -1) / 2  # neighbouring layers; one may be an accident
    usually = read.max() if in_two.isna().all() else in_two.max()
    best = counts.loc[counts["interpreted"].idxmax()]
    where = f"layer{'' if above.isdigit() else 's'} {above}" if above else "no layer"
    middle = norms.iloc[len(norms) // 2]
    if described <= max(chance["high"], n / 2):
        head = "It can hardly speak: named in plain text, too few entities are described for readings to mean much."
    elif not above:
        head = "It can speak, but plain readings of its hidden states are within chance: a long sweep is a gamble."
    elif usually < described / 2:
        head = "It can speak, but little of what it could say is read from its hidden states: expect small counts."
    else:
        head = "It can speak, and its hidden states can be read: worth a sweep."
    return [
        head,
        f"Named in plain text, it describes {described} of {n} entities (by chance {chance['mean']:.1f}, at most "
        f"{chance['high']}).",
        f"Plain Patchscopes (α = 1, into layer 0) reads more hidden states than by chance (at most "
        f"{counts['null_high'].max()}, in any layer) in {where}; most in layer "
        f"{best['layer']}: {best['interpreted']} of {n} (by chance {best['null_mean']:.1f} on average).",
        f"In the middle, layer {middle['layer']:.0f}, an MLP output is {middle['mlp_output'] / middle['placeholder']:.2g} "
        f"times as long as the placeholder's own hidden state there, a hidden state "
        f"{middle['hidden_state'] / middle['placeholder']:.2g} times.",
        f"The paper's two evaluations ({PAPER_ROWS:,} readings) would take about "
        f"{max(1, round(costs['minutes of Figure 3']))} min here, at {costs['rows per second']:g} a second, and "
        f"{costs['GiB at most']:g} GiB of memory.",
    ]
