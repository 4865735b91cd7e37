"""FAISS indexes of one shard: approximate L1 neighbours, and how many of the true ones they find."""

import faiss
import numpy as np

from schemas.index import IndexKind

_HNSW_LINKS = 16


def build(vectors: np.ndarray, kind: IndexKind, centroids: np.ndarray) -> faiss.Index:
    """Build the index of a shard.

    Parameters
    ----------
    vectors : (n, d) float32 array
        Finite. Row i is vector i.
    kind : IndexKind
    centroids : (c, d) float32 array
        Of the shard's cells; only IVF-Flat uses them. At least one.
    """
    d = vectors.shape[1]
    if kind == "flat":
        index = faiss.IndexFlat(d, faiss.METRIC_L1)
    elif kind == "hnsw-flat":
        index = faiss.IndexHNSWFlat(d, _HNSW_LINKS, faiss.METRIC_L1)
    else:
        quantiser = faiss.IndexFlatL2(d)
        quantiser.add(np.ascontiguousarray(centroids, np.float32))
        index = faiss.IndexIVFFlat(quantiser, d, len(centroids), faiss.METRIC_L1)
        index.own_fields = True
        quantiser.this.disown()
    index.add(np.ascontiguousarray(vectors, np.float32))
    return index


def search(
    index: faiss.Index, queries: np.ndarray, k: int, effort: int, cells: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find about the k nearest vectors of a shard.

    Parameters
    ----------
    index : faiss.Index
        Of a kind that `build` makes.
    queries : (q, d) float32 array
    k : int
        At most the number of vectors.
    effort : int
        `efSearch` of an HNSW graph; other kinds ignore it.
    cells : (q, p) int64 array
        Cells to probe, by their place in the shard's centroids; -1 for none. Only IVF-Flat looks at them.

    Returns
    -------
    distances : (q, k) float32 array
        Ascending; inf where fewer were found. The last bit may differ from that of exact search.
    rows : (q, k) int64 array
        -1 where the distance is inf.
    """
    queries = np.ascontiguousarray(queries, np.float32)
    if isinstance(index, faiss.IndexIVF):
        # FAISS reads no more cells of a query than there are lists, and misreads wider rows.
        order = np.argsort(cells < 0, axis=1, kind="stable")
        cells = np.take_along_axis(cells, order, axis=1)[:, : index.nlist]
        index.nprobe = cells.shape[1]  # FAISS wants it said twice.
        distances, rows = index.search_preassigned(queries, k, cells, np.zeros(cells.shape, np.float32))
    elif isinstance(index, faiss.IndexHNSW):
        distances, rows = index.search(queries, k, params=faiss.SearchParametersHNSW(efSearch=max(effort, k)))
    else:
        distances, rows = index.search(queries, k)
    return np.where(rows < 0, np.float32(np.inf), distances), rows


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """Mean share of the true neighbours that were found.

    Parameters
    ----------
    found, exact : (q, k) int arrays
        Identities of objects; what is negative in `exact` is no neighbour.
    """
    shares = [np.isin(true[true >= 0], row).mean() for row, true in zip(found, exact, strict=True) if (true >= 0).any()]
    return float(np.mean(shares)) if shares else 1.0
