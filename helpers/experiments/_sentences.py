"""How numbers are said in the sentences that experiments end with."""

from collections.abc import Iterable, Mapping, Sequence

from ..words.components import GRIDS
from ..words.methods import METHODS


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def with_interval(effect: Mapping[str, float]) -> str:
    """Say an effect with its interval, as in "5.2 % (2.6 % to 8.0 %)"."""
    return f"{percent(effect['effect'])} ({percent(effect['low'])} to {percent(effect['high'])})"


def points(gain: Mapping[str, float]) -> str:
    """Say a gain in percentage points, with its interval."""
    return f"{100 * gain['gain']:+.1f} points ({100 * gain['low']:.1f} to {100 * gain['high']:.1f})"


def best_of(tries: Sequence[int]) -> str:
    """Say among how many readings the best counts: "one reading", "best of 5", "best of 5 to 9"."""
    few, many = min(tries), max(tries)
    return "one reading" if many == 1 else f"best of {many}" if few == many else f"best of {few} to {many}"


def what_counts(methods: Mapping[str, int]) -> str:
    """Say what counts for each method, of method -> tries, as in "Superscopes: best of 5 amplified readings; …"."""
    said = [
        f"{name}: {f'best of {tries}' if tries > 1 else 'a single'} {METHODS[name].one} reading{'s' if tries > 1 else ''}"
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


def interpreted(threshold: float, pairs: str = "in a share of (prompt, layer) pairs") -> str:
    return f"Interpreted: similarity to the prompt above {threshold:g}, {pairs}"


OTHERS = "the same readings, judged by other prompts"
BARS = "Bars: 95 % intervals of the distance to chance"
