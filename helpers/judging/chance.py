"""Chance: the same readings, judged by other prompts. Every null of the suite is made here.

In rotation k each prompt's readings are judged by the k-th next prompt, so that a rotation has as many prompts,
readings and tries as the real pairing, which is rotation 0.
"""

from collections.abc import Iterator, Sequence

import numpy as np


def rotations(n: int, groups: Sequence[np.ndarray] | None = None) -> Iterator[np.ndarray]:
    """Yield, for each rotation but the real pairing, which prompt judges each prompt's readings: (n,) indices.

    Args:
        groups: indices of prompts that are rotated among themselves; all together if left out. As many rotations as
            the smallest group allows.
    """
    groups = [np.arange(n)] if groups is None else groups
    for k in range(1, min(map(len, groups))):
        judges = np.arange(n)
        for group in groups:
            judges[group] = np.roll(group, -k)
        yield judges


def rotated(table: np.ndarray) -> np.ndarray:
    """Return what each rotation gives: (k, m, …), the real pairing first.

    Args:
        table: (m, k, …) of m prompts' readings judged by k prompts, the first m of which are their own.
    """
    readers, judges = np.arange(table.shape[0]), table.shape[1]
    return np.stack([table[readers, (readers + k) % judges] for k in range(judges)])


def band(values: Sequence[float]) -> tuple[float, float]:
    """Return the smallest values that 2.5 % and 97.5 % of the rotations don't exceed."""
    low, high = np.quantile(values, [0.025, 0.975], method="inverted_cdf")
    return low, high


def range_of_best(cosines: np.ndarray) -> tuple[float, float]:
    """Return the 95 % range of the best of some readings against other prompts: (tries, other prompts) cosines."""
    low, high = band(cosines.max(0))
    return float(low), float(high)


def permutations(n: int, resamples: int, groups: Sequence[np.ndarray] | None = None) -> np.ndarray:
    """Return random pairings of readers with judges, (resamples, n), within groups; the same ones for the same n."""
    rng, orders = np.random.default_rng(0), np.empty((resamples, n), dtype=int)
    for group in [np.arange(n)] if groups is None else groups:
        orders[:, group] = rng.permuted(np.tile(group, (resamples, 1)), axis=1)
    return orders
