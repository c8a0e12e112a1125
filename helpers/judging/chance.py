"""Chance: the same readings, judged by other prompts. Every null of the suite is made here.

Three nulls stand side by side. A reading of a band that says "rock band" is no information about which band it is, but
it is about what kind of thing: other bands' judgement is a stricter chance than any other prompt's.

Tables are (n, n): what prompt i's readings give when prompt j judges them; the real pairing is the diagonal.
"""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 9999  # of an interval or a test
NULLS = {  # who else judges a prompt's readings -> as sentences say it
    "any": "any other prompt",
    "same": "others of its category",
    "other": "others of another category",
}


def others(truths: Sequence[str], categories: Sequence[str] = (), null: str = "any") -> np.ndarray:
    """Return whom a prompt's chance comes from, (n, n) bool; nobody, where a prompt is alone in its category.

    Args:
        truths: (n,) what each prompt's readings should say. Prompts with the same truth are no others of each other:
            their judgement is no chance.
        categories: (n,) each prompt's; needed by "same" and "other".
        null: of NULLS.
    """
    truths, kinds = np.array(truths), np.array(categories)
    if null == "other":
        return kinds[:, None] != kinds
    different = truths[:, None] != truths
    return different & (kinds[:, None] == kinds) if null == "same" else different


def by_chance(table: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Return what each prompt's readings give by chance, (n,): the mean over its others; 0 where it has none."""
    return np.where(allowed, table, 0).sum(1) / np.maximum(allowed.sum(1), 1)


def rotated(table: np.ndarray) -> np.ndarray:
    """Return what each rotation gives, (k, m, …), the real pairing first: in rotation r, the r-th next prompt judges.

    Args:
        table: (m, k, …) of m prompts' readings judged by k prompts, the first m of which are the same prompts.
    """
    readers, judges = np.arange(table.shape[0]), table.shape[1]
    return np.stack([table[readers, (readers + k) % judges] for k in range(judges)])


def rotation_means(table: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Return the mean over prompts in each rotation but the real one; pairs that are not allowed are left out.

    Args:
        table, allowed: (m, k) as of `rotated`; a prompt whose readings don't count is allowed nobody.
    """
    return _means(rotated(table)[1:], rotated(allowed)[1:])


def drawn_means(table: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Return the mean over prompts when each is judged by a random one of its others; the same draws for the same n.

    Where many truths are the same, a rotation that leaves such pairs out is mostly of the prompts whose truth is rare.
    Here each prompt with others counts each time.
    """
    rng, readers = np.random.default_rng(0), np.flatnonzero(allowed.any(1))
    of_readers = [rng.choice(table[reader, allowed[reader]], RESAMPLES) for reader in readers]
    return np.mean(of_readers, axis=0)


def permuted_means(table: np.ndarray, allowed: np.ndarray, groups: Sequence[np.ndarray] | None = None) -> np.ndarray:
    """Return the mean over prompts under random pairings, within groups; the same pairings for the same n."""
    readers, judges = np.arange(len(table)), permutations(len(table), RESAMPLES, groups)
    return _means(table[readers, judges], allowed[readers, judges])


def _means(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    counts = kept.sum(1)
    return np.where(kept, values, 0).sum(1)[counts > 0] / counts[counts > 0]


def band(values: Sequence[float]) -> tuple[float, float]:
    """Return the smallest values that 2.5 % and 97.5 % of what chance gives don't exceed."""
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
