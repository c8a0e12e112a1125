"""From which layer on is an entity there, and what is legible before: ℓ_c, Tables 1–3, the story of Figure 1."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from . import InputError
from .effects import Judged, effect, judge
from .experiments import FINE_GRID, MLP_GRID
from .plans import TargetPrompt
from .scoring import THRESHOLD, is_echo

NEVER = -1  # in place of ℓ_c: never contextualized


def is_legible(rows: pd.DataFrame, threshold: float = THRESHOLD) -> pd.Series:
    """(rows,) bool: similar to the entity's gold description, and not an echo of its name."""
    items = [TargetPrompt().first_item(text) for text in rows["result"]]
    echoes = [is_echo(item, prompt) for item, prompt in zip(items, rows["source prompt"], strict=True)]
    return (rows["score gold"] > threshold) & (rows["status"] == "ok") & ~np.array(echoes)


def contextualized(rows: pd.DataFrame, threshold: float = THRESHOLD) -> pd.Series:
    """ℓ_c of each prompt: the smallest ℓ such that the plain readings at ℓ and ℓ + 1 are both legible; NEVER if none.

    Args:
        rows: scored by gold; plain readings (α = 1) of hidden_state into layer 0 are used, of all layers.
    """
    plain = rows[
        (rows["component"] == "hidden_state") & (rows["amplification value"] == 1) & (rows["target layer"] == 0)
    ]
    legible = plain.assign(legible=is_legible(plain, threshold)).pivot(
        index="source prompt", columns="layer", values="legible"
    )
    first = _first_of_two(legible.to_numpy(), legible.columns.to_numpy())
    return pd.Series(first, legible.index)[plain["source prompt"].unique()].rename("ℓ_c")


def context_by_judge(plain: Judged, threshold: float = THRESHOLD) -> np.ndarray:
    """(n, n) ℓ_c of prompt i if prompt j's description judged its readings; NEVER where there is none.

    Args:
        plain: readings of hidden_state into layer 0 at α = 1, in all layers, judged by gold without echoes.
    """
    return _first_of_two(plain.successes(plain.plain, threshold), np.array(plain.layers))


def _first_of_two(legible: np.ndarray, layers: np.ndarray) -> np.ndarray:
    """(n, …) the first layer at which, and at the next one, a reading of (n, layers, …) is legible; NEVER if none."""
    both = legible[:, :-1] & legible[:, 1:]
    return np.where(both.any(1), layers[both.argmax(1)], NEVER)


def layers_earlier(judged: Judged, which: np.ndarray, context: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """(n, n) int: how many layers before ℓ_c(i, j) prompt i is legible, as judged by j; 0 for no earlier layer.

    Args:
        judged: of one component, by gold descriptions, without echoes.
        which: (tries,) bool, the readings that count.
        context: (n, n), of `context_by_judge`.
    """
    before = context[:, None, :] - np.array(judged.layers)[:, None]  # (n, layers, n)
    return (judged.successes(which, threshold) * np.maximum(before, 0)).max(1)


def among_contextualized(values: np.ndarray, context: np.ndarray) -> dict[str, float]:
    """The mean of a number over the prompts with a layer before ℓ_c, beside chance with the same selection.

    By chance: prompt i judged by prompt j's description throughout, ℓ_c(i, j) included, over the pairs i ≠ j for which
    there is a layer before ℓ_c(i, j). So chance has the same rule, the same readings and as many tries.

    Args:
        values: (n, n), of prompt i judged by j.
        context: (n, n), of `context_by_judge`.

    Returns:
        n (prompts counted), rate, null, null_low, null_high (95 % of all rotations), effect with its 95 % interval
        (low, high; bootstrap over prompts), p_value (share of the rotations, the real pairing included, with at least
        such a mean).
    """
    counted = context > 0
    size = len(values)

    def difference(prompts: np.ndarray) -> float:
        part, kept = values[np.ix_(prompts, prompts)], counted[np.ix_(prompts, prompts)]
        same = prompts[:, None] == prompts
        own = kept.diagonal()
        return part.diagonal()[own].mean() - part[kept & ~same].mean() if own.any() and (kept & ~same).any() else np.nan

    i, means = np.arange(size), []
    for k in range(size):
        kept = counted[i, (i + k) % size]
        means.append(values[i, (i + k) % size][kept].mean() if kept.any() else np.nan)
    rotated = np.array(means[1:])[~np.isnan(means[1:])]
    rng = np.random.default_rng(0)
    drawn = np.array([difference(rng.integers(size, size=size)) for _ in range(2000)])
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    null_low, null_high = np.quantile(rotated, [0.025, 0.975], method="inverted_cdf")
    numbers = {
        "rate": means[0], "null": means[0] - difference(i), "null_low": null_low, "null_high": null_high,
        "effect": difference(i), "low": low, "high": high,
        "p_value": (1 + (rotated >= means[0] - 1e-12).sum()) / (1 + len(rotated)),
    }  # fmt: skip
    return {"n": int(counted.diagonal().sum())} | {name: round(float(value), 4) for name, value in numbers.items()}


def walkthrough(rows: pd.DataFrame, prompt: str, first_context: int) -> pd.DataFrame:
    """A prompt's readings before its ℓ_c, the original beside the best amplified one (Tables 1–3).

    Returns:
        Columns layer, plain, α, amplified, score gold, legible; the best is the one with the highest score by the
        gold description, as the paper's readers chose what they show.
    """
    before = 8 if first_context == NEVER else first_context
    rows = rows[(rows["source prompt"] == prompt) & (rows["layer"] < before)]
    lines = []
    for layer, here in rows.groupby("layer"):
        plain, amplified = here[here["amplification value"] == 1], here[here["amplification value"] != 1]
        if amplified.empty:  # plain readings go deeper than amplified ones
            continue
        best = amplified.loc[amplified["score gold"].idxmax()]
        lines.append(
            {
                "layer": layer,
                "plain (α = 1)": plain["result"].iloc[0] if len(plain) else "",
                "α": best["amplification value"],
                "amplified": best["result"],
                "score gold": round(best["score gold"], 2),
                "legible": bool(is_legible(best.to_frame().T)[best.name]),
            }
        )
    return pd.DataFrame(lines)


def claims_before_context(
    rows: pd.DataFrame, gold: Mapping[str, str], threshold: float = THRESHOLD
) -> tuple[dict[str, dict[str, dict]], list[str]]:
    """Tables 1–3 as claims over all prompts, each beside chance with the same selection (`among_contextualized`).

    Args:
        rows: of the evaluations and of `experiments.before_context`.

    Returns:
        component -> method -> legible (the share of prompts that are legible in any layer before ℓ_c, up to 7), layers
        (how many layers earlier, on average), counts (prompts per number of layers earlier); and sentences.
    """
    rows = rows[rows["source prompt"].isin(gold)]
    into_first = rows[(rows["component"] == "hidden_state") & (rows["target layer"] == 0)]
    plain = judge(into_first[into_first["amplification value"] == 1], gold, echoes=False)
    context = context_by_judge(plain, threshold)
    n, own = len(context), context.diagonal()
    i = np.arange(n)
    by_chance = [int((context[i, (i + k) % n] != NEVER).sum()) for k in range(1, n)]
    low, high = np.quantile(by_chance, [0.025, 0.975], method="inverted_cdf")
    sentences = [
        f"Of {n} prompts, {(own != NEVER).sum()} are contextualized (ℓ_c exists; by chance {np.mean(by_chance):.1f}, "
        f"{low} to {high}), {(own == 0).sum()} of them from layer 0 on; {(own == NEVER).sum()} never are."
    ]
    earlier = {}
    if (own > 0).sum() < 2 or (context[~np.eye(n, dtype=bool)] > 0).sum() < n:
        return earlier, [*sentences, "Too few have a layer before ℓ_c for anything to be compared."]
    for component, (grid, target) in {"mlp_output": (MLP_GRID, "same"), "hidden_state": (FINE_GRID, 0)}.items():
        mine = rows[(rows["component"] == component) & rows["amplification value"].isin(grid) & (rows["layer"] <= 7)]
        at = mine["layer"] if target == "same" else target
        judged = judge(mine[mine["target layer"] == at], gold, echoes=False)
        if judged.prompts != plain.prompts:
            raise InputError("results", component, "the evaluation is of other prompts")
        earlier[component] = {}
        what = {"mlp_output": "MLP output", "hidden_state": "hidden state"}[component]
        for method, which in (("Patchscopes", judged.plain), ("Superscopes", ~judged.plain)):
            layers = layers_earlier(judged, which, context, threshold)
            legible, by = among_contextualized(layers > 0, context), among_contextualized(layers, context)
            mine = layers.diagonal()[own > 0]
            counts = {int(k): int(v) for k, v in zip(*np.unique(mine, return_counts=True), strict=True)}
            earlier[component][method] = {"legible": legible, "layers": by, "counts": counts}
            kind = "A plain" if method == "Patchscopes" else "An amplified"
            certain = "above chance" if legible["low"] > 0 and legible["p_value"] < 0.05 else "within chance"
            sentences.append(
                f"{kind} {what} says what the entity is before ℓ_c for {(mine > 0).sum()} of {legible['n']} prompts with "
                f"an earlier layer (by chance, with the same selection, {legible['null'] * legible['n']:.1f}): {certain}; "
                f"{by['rate']:.1f} layers earlier on average (by chance {by['null']:.1f})."
            )
    return earlier, sentences


def guidance_found(rows: pd.DataFrame, layer: int) -> tuple[pd.DataFrame, list[str]]:
    """Where α·mlp and h_PreMLP + w·mlp are legible, and whether guidance passes through the two plain readings.

    Args:
        rows: of `experiments.guidance`, with a column `legible`.
        layer: the one that the sentences tell of.

    Returns:
        Columns component, layer, legible (the scales), best (the scale most similar to the description), reading,
        score gold, last (the largest legible scale), same_as_plain (of guidance: w = 0 and w = 1); and sentences.
    """
    lines = []
    if (rows["amplification value"] % 1 == 0).all():  # as a table that was read from a file has them
        rows = rows.astype({"amplification value": int})
    for (component, one), here in rows[rows["component"].isin(("mlp_output", "guidance"))].groupby(
        ["component", "layer"], sort=False
    ):
        at = here.set_index("amplification value")
        best = at["score gold"].idxmax()
        legible = at.index[at["legible"]].tolist()
        same = ""
        if component == "guidance":
            plain = rows[(rows["layer"] == one) & rows["component"].isin(("pre_mlp_residual", "hidden_state"))]
            plain = plain.set_index("component")["result"]
            pairs = ((0, "pre_mlp_residual"), (1, "hidden_state"))
            if all(w in at.index for w, _ in pairs):
                same = all(at.loc[w, "result"] == plain[name] for w, name in pairs)
        lines.append(
            {
                "component": component, "layer": one, "legible": " ".join(f"{scale:g}" for scale in legible), "best": best,
                "reading": at.loc[best, "result"], "score gold": at.loc[best, "score gold"],
                "last": max(legible, default=""), "same_as_plain": same,
            }
        )  # fmt: skip
    found = pd.DataFrame(lines)
    sentences = []
    for row in found[found["layer"] == layer].to_dict("records"):
        form = "α · MLP output" if row["component"] == "mlp_output" else "h_PreMLP + w · MLP output"
        where = f"at {row['legible'].replace(' ', ', ')}, and nowhere beyond" if row["legible"] else "at no scale"
        sentences.append(
            f"{form}, layer {layer}: legible {where}; closest at {row['best']:g}, {row['reading'].strip()!r} (similarity "
            f"{row['score gold']:.2f})."
        )
    checked = found[(found["component"] == "guidance") & (found["same_as_plain"] != "")]
    if len(checked):
        agree = int(checked["same_as_plain"].sum())
        sentences.append(
            f"w = 0 says what h_PreMLP says and w = 1 what the hidden state says, word for word, in {agree} of "
            f"{len(checked)} layers."
        )
    return found, sentences


def find_story(rows: pd.DataFrame) -> dict[str, object]:
    """The layer and amplifier at which Figure 1's story is told best, and whether it holds.

    It holds where the residual before the MLP and the plain MLP output say nothing of the entity, the amplified MLP
    output does, and the hidden state, their sum, does too.

    Returns:
        layer, amplifier, holds; random readings, random legible: how many amplified random vectors there were, and how
        many of them are legible; steps: per step its component, amplifier, first item of the reading, score gold and
        legible; missing: the steps that don't go as told (of the best layer).
    """
    rows = rows.assign(legible=is_legible(rows))
    told = {"pre_mlp_residual": False, "mlp_output": False, "amplified": True, "hidden_state": True}
    stories = []
    for layer, here in rows.groupby("layer"):
        amplified = here[(here["component"] == "mlp_output") & (here["amplification value"] != 1)]
        best = amplified.sort_values(["legible", "score gold"], ascending=False, kind="stable").iloc[0]
        plain = here[here["amplification value"] == 1].set_index("component")
        of_step = {name: best if name == "amplified" else plain.loc[name] for name in told}
        missing = [name for name, legible in told.items() if bool(of_step[name]["legible"]) != legible]
        steps = {
            name: {
                "amplifier": float(row["amplification value"]),
                "reading": TargetPrompt().first_item(row["result"]).strip(),
                "score gold": round(float(row["score gold"]), 3),
                "legible": bool(row["legible"]),
            }
            for name, row in of_step.items()
        }
        stories.append({
            "prompt": best["source prompt"], "token": best["token"].strip(), "layer": int(layer),
            "target layer": int(best["target layer"]), "amplifier": float(best["amplification value"]),
            "holds": not missing, "missing": missing, "steps": steps,
        })  # fmt: skip
    random = rows[rows["component"].str.startswith("random") & (rows["amplification value"] != 1)]
    for one in stories:  # the control has as many tries as the story was chosen from
        one |= {"random readings": len(random), "random legible": int(random["legible"].sum())}
    told_best = ("amplified", "mlp_output", "pre_mlp_residual", "hidden_state")  # what matters most to the story first
    return min(
        stories,
        key=lambda one: (*(step in one["missing"] for step in told_best), -one["steps"]["amplified"]["score gold"]),
    )


def stories(
    rows: pd.DataFrame, gold: Mapping[str, str], threshold: float = THRESHOLD
) -> tuple[dict[str, float], dict | None]:
    """Figure 1's story over all prompts: in how many it holds in any layer, beside chance, and the best of them.

    Args:
        rows: the MLP evaluation, and h_PreMLP and hidden states into the same layer (`experiments.every_component`).

    Returns:
        `effects.effect` of the share of prompts for which it holds, with prompts and holds (their number); and the story
        (`find_story`) whose amplified MLP output is most similar to the description, None if it holds for none.
    """
    keep = {"pre_mlp_residual": (1,), "hidden_state": (1,), "mlp_output": MLP_GRID}
    same = rows[(rows["target layer"] == rows["layer"]) & rows["source prompt"].isin(gold)].drop_duplicates("id")
    parts = {c: same[(same["component"] == c) & same["amplification value"].isin(grid)] for c, grid in keep.items()}
    layers = sorted(set.intersection(*(set(part["layer"]) for part in parts.values())))
    parts = {c: part[part["layer"].isin(layers)] for c, part in parts.items()}
    judged = {component: judge(part, gold, echoes=False) for component, part in parts.items()}
    mlp = judged["mlp_output"]
    holds = mlp.successes(~mlp.plain, threshold) & ~mlp.successes(mlp.plain, threshold)
    holds &= ~judged["pre_mlp_residual"].successes() & judged["hidden_state"].successes()
    of_prompt = holds.any(1)  # (n, n): of prompt i, judged by prompt j's description
    numbers = effect(mlp, of_prompt[:, None, :]) | {"prompts": len(of_prompt), "holds": int(of_prompt.diagonal().sum())}
    told = [
        find_story(pd.concat(part[part["source prompt"] == prompt] for part in parts.values()))
        for prompt, held in zip(mlp.prompts, of_prompt.diagonal(), strict=True)
        if held
    ]
    return numbers, max(told, key=lambda one: one["steps"]["amplified"]["score gold"], default=None)


def stories_sentence(numbers: Mapping[str, float], model: str) -> str:
    """In how many prompts the story holds, beside chance."""
    n = numbers["prompts"]
    certain = "more than chance" if numbers["low"] > 0 and numbers["p_value"] < 0.05 else "within chance"
    return (
        f"On {model} the story holds for {numbers['holds']} of {n} prompts in some layer; by chance for {numbers['null'] * n:.1f} "
        f"({numbers['null_low'] * n:.0f} to {numbers['null_high'] * n:.0f}): {certain}."
    )


def story_sentence(story: Mapping[str, object], model: str) -> str:
    """What Figure 1 shows on a model, or which of its steps fail."""
    if story["holds"]:
        return (
            f"{model}, “{story['prompt']}”, layer {story['layer']}: amplified {story['amplifier']:g} times, the MLP output says what "
            f"neither it nor the residual before it says plainly, and what the hidden state says."
        )
    fails = {
        "pre_mlp_residual": "the residual before the MLP is legible already",
        "mlp_output": "the plain MLP output is legible already",
        "amplified": "no amplified MLP output is legible",
        "hidden_state": "the hidden state is not legible",
    }
    reasons = "; ".join(fails[step] for step in story["missing"])
    where = f"The story of “{story['prompt']}” does not hold on {model} in any layer"
    return f"{where}; in its best, layer {story['layer']}, {reasons}."
