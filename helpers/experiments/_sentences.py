"""How numbers are said in the sentences that experiments end with."""

import math
from collections.abc import Iterable, Mapping, Sequence

from ..judging.rules import RULES
from ..words.components import GRIDS
from ..words.methods import METHODS


def percent(share: float) -> str:
    return f"{100 * share:z.1f} %".replace("-", "−")


def with_interval(effect: Mapping[str, float]) -> str:
    """Say an effect with its interval, as in "5.2 % (2.6 % to 8.0 %)"."""
    return f"{percent(effect['effect'])} ({percent(effect['low'])} to {percent(effect['high'])})"


def above_chance(effect: Mapping[str, float]) -> str:
    """Say an effect beside each chance that it has, as in "5.2 % (2.6 % to 8.0 %) above chance, 1.9 % (…) above …"."""
    said = f"{with_interval(effect)} above chance"
    if (same := effect.get("effect same", math.nan)) == same:
        said += f", {with_interval(within_category(effect))} above chance of the category"
    return said


def within_category(effect: Mapping[str, float]) -> dict[str, float]:
    """Return the part of an effect or a gain that is over chance of the category, under the names of the whole."""
    return {name.removesuffix(" same"): value for name, value in effect.items() if name.endswith(" same")}


def is_certain(effect: Mapping[str, float]) -> bool:
    """Tell whether an effect is above chance: its interval, and the permutation test."""
    return effect["low"] > 0 and effect["p_value"] < 0.05


def points(gain: Mapping[str, float]) -> str:
    """Say a gain in percentage points, its direction once, with its interval in the same direction."""
    sign, word = (-1, "fewer") if gain["gain"] < 0 else (1, "more")
    ends = sorted((100 * sign * gain["low"], 100 * sign * gain["high"]))
    return f"{100 * abs(gain['gain']):.1f} points {word} ({ends[0]:z.1f} to {ends[1]:z.1f})".replace("-", "−")


def best_of(tries: Sequence[int]) -> str:
    """Say among how many readings the best counts: "one reading", "best of 5", "best of 5 to 9"."""
    few, many = min(tries), max(tries)
    return "one reading" if many == 1 else f"best of {many}" if few == many else f"best of {few} to {many}"


def what_counts(methods: Mapping[str, int]) -> str:
    """Say what counts for each method, of method -> tries, as in "Superscopes: best of 5 amplified readings; …"."""
    said = [
        f"{name}: {f'best of {tries}' if tries > 1 else 'a single'} {METHODS[name].adjective} reading{'s' if tries > 1 else ''}"
        for name, tries in methods.items()
    ]
    return "; ".join(said[::-1]) + "."


def amplified(component: str) -> str:
    """Say which amplifiers a component's grid has, apart from the plain 1, as in "3 to 15"."""
    amplifiers = [amplifier for amplifier in GRIDS[component] if amplifier != 1]
    return f"{min(amplifiers):g} to {max(amplifiers):g}"


def in_runs(numbers: Iterable[int]) -> str:
    """List layers, neighbours together, as in "1–7, 9"."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def interpreted(threshold: float, rules: Iterable[str], pairs: str = "") -> str:
    """Say what counts as interpreted: by the leading rule, and by the other that stands beside it.

    Args:
        pairs: what a share is of, as in "(prompt, layer) pairs"; empty for counts.
    """
    lead, *beside = (RULES[rule].similar for rule in rules)
    share = f", a share of {pairs}" if pairs else ""
    return f"Interpreted{share}: {lead} above {threshold:g}{''.join(f'; as in the paper: {other}' for other in beside)}."


def chance(table: Mapping[str, object]) -> str:
    """Say what chance is in a figure of a table of effects, and what stands for the stricter one."""
    same = "; diamonds: its mean by others of the category" if "null same" in table else ""
    return f"Grey, chance: {OTHERS} (95 % of all rotations){same}."


OTHERS = "the same readings, judged by other prompts"
BARS = "Bars: 95 % intervals of the distance to chance"
