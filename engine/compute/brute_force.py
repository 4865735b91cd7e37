"""L1 neighbours by comparing everything, in PyTorch: the fast way on a GPU, and the measure of every other way."""

import numpy as np
import torch

from engine.compute.boxes import Boxes, Found, Sky, chord_squared, nothing_found

_BLOCK_BYTES = 256 * 2**20
"""Distances in memory at once."""


def search(
    boxes: Boxes,
    queries: np.ndarray,
    k: int,
    left_out: np.ndarray | None = None,
    allowed: np.ndarray | None = None,
    sky: Sky | None = None,
    device: str = "cpu",
) -> Found:
    """Find the k nearest vectors of a shard to each query under L1, as `engine.compute.boxes.search`: the same bits.

    Parameters
    ----------
    boxes, queries, k, left_out, allowed, sky
        As there; the bounds are not looked at.
    device : str
        Of PyTorch.

    Raises
    ------
    ValueError
        Queries and vectors differ in dimension.
    """
    q, rows = len(queries), boxes.rows.ravel()
    found = nothing_found(boxes, queries, k)._replace(n_compared=np.full(q, boxes.n, np.int64))
    if not len(rows):
        return found
    barred = rows < 0
    if allowed is not None:
        barred |= ~allowed[rows]
    # Copies: PyTorch warns of arrays that cannot be written to, as those of mapped files.
    blocks, rows_there, barred_there = (torch.tensor(part, device=device) for part in (boxes.blocks, rows, barred))
    step = max(1, _BLOCK_BYTES // (4 * len(rows)))
    for start in range(0, q, step):
        part = slice(start, start + step)
        distances = _distances(blocks, torch.tensor(queries[part], dtype=torch.float32, device=device))
        distances.masked_fill_(barred_there, torch.inf)
        if left_out is not None:
            own = torch.as_tensor(np.where(left_out[part] < 0, -2, left_out[part]), device=device)
            distances.masked_fill_(rows_there == own[:, None], torch.inf)
        if sky is not None:
            distances.masked_fill_(_within(sky, rows, part, device), torch.inf)
        _smallest(distances, rows, found.distances[part], found.rows[part])
    return found


def _distances(blocks: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """(q, b * 128) distances, one component after the other."""
    total = (queries[:, 0, None, None] - blocks[None, :, 0]).abs_()
    for j in range(1, blocks.shape[1]):
        total += (queries[:, j, None, None] - blocks[None, :, j]).abs_()
    return total.flatten(1)


def _within(sky: Sky, rows: np.ndarray, part: slice, device: str) -> torch.Tensor:
    """(q, b * 128) whether an object lies within the radius of the query on the sky."""
    objects = torch.as_tensor(sky.objects[rows], device=device)
    queries = torch.as_tensor(sky.queries[part], device=device)
    apart = sum((queries[:, j, None] - objects[None, :, j]) ** 2 for j in range(3))
    return torch.as_tensor(apart <= chord_squared(sky.radius_rad))


def _smallest(distances: torch.Tensor, rows: np.ndarray, out_distances: np.ndarray, out_rows: np.ndarray) -> None:
    """Write the k smallest of each query in order of (distance, row).

    `topk` picks any of equal ones, so it only gives the k-th distance; everything up to it is sorted.
    """
    k = out_distances.shape[1]
    worst = distances.topk(min(k, len(rows)), dim=1, largest=False).values[:, -1:]
    found = (distances <= worst.clamp(max=torch.finfo(torch.float32).max)).nonzero()
    distance = distances[found[:, 0], found[:, 1]].cpu().numpy()
    number, slot = found.T.cpu().numpy()
    row = rows[slot]
    order = np.lexsort((row, distance, number))
    number, row, distance = number[order], row[order], distance[order]
    place = np.arange(len(number)) - np.searchsorted(number, number)
    kept = place < k
    out_distances[number[kept], place[kept]] = distance[kept]
    out_rows[number[kept], place[kept]] = row[kept]
