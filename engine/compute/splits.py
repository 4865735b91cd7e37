"""Who trains, who validates, who tests: by object and by group of near-duplicates, the same whenever it is asked."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def groups_of(n: int, pairs: np.ndarray) -> np.ndarray:
    """Group objects that are linked by pairs, directly or through others.

    Parameters
    ----------
    n : int
        Objects.
    pairs : (m, 2) int array
        Near-duplicates, by row.

    Returns
    -------
    (n,) int array
        The smallest row of each object's group.
    """
    links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    _, labels = connected_components(links, directed=False)
    smallest = np.full(labels.max(initial=-1) + 1, n)
    np.minimum.at(smallest, labels, np.arange(n))
    return smallest[labels]


def split(ids: Sequence[int] | Sequence[str], groups: np.ndarray, shares: Mapping[str, float], seed: int) -> np.ndarray:
    """Put every object into one part, the members of a group into the same.

    Parameters
    ----------
    ids : sequence of int or str
    groups : (n,) int array
        Row of the object whose id decides for the whole group, as of `groups_of`.
    shares : mapping of name to share
        Of each part; they add up to 1.
    seed : int

    Returns
    -------
    (n,) array of str
        Decided by a hash of seed and id: an object keeps its part when others are added or left out.

    Raises
    ------
    ValueError
        The shares do not add up to 1, or one is negative.
    """
    if abs(sum(shares.values()) - 1) > 1e-9 or min(shares.values()) < 0:
        raise ValueError(f"expected shares that add up to 1, found {dict(shares)}")
    places = np.array([_place(ids[int(row)], seed) for row in groups])
    edges = np.cumsum(list(shares.values()))[:-1]
    return np.array(list(shares))[np.searchsorted(edges, places, side="right")]


def balanced(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Repeat rows of rarer classes until each class has as many rows as the most common.

    Parameters
    ----------
    labels : (n,) array
    random : np.random.Generator
        Chooses which rows are repeated once more than others.

    Returns
    -------
    (m,) int array
        Rows, those of one class together; every row at least once.
    """
    classes, counts = np.unique(labels, return_counts=True)
    rows = []
    for value in classes:
        own = np.flatnonzero(labels == value)
        times, rest = divmod(int(counts.max()), len(own))
        rows += [np.tile(own, times), random.choice(own, rest, replace=False)]
    return np.concatenate(rows) if rows else np.empty(0, int)


def _place(object_id: int | str, seed: int) -> float:
    """A number in [0, 1) for an id."""
    digest = hashlib.blake2b(f"{seed}:{object_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
