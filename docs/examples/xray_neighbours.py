"""Neighbours of my X-ray sources: galaxies that look like the hosts of these sources.

    python xray_neighbours.py RELEASE SOURCES.csv OUTPUT

SOURCES.csv has `source_id`, `ra`, `dec` (degrees) and `error_arcsec`, the radius in which the source lies.
"""

import sys
from pathlib import Path

import lsdb
import pandas as pd

from jobs import hats, neighbours
from schemas.config import NeighboursJob
from schemas.hats import HatsJob

MOST_ARCSEC = 10.0
"""The largest error radius that is looked at; the collection's margin is as wide."""
SHIFT_DEG = 60 / 3600
"""Moved by so much, sources match by chance alone."""


def hosts(sources: pd.DataFrame, galaxies: lsdb.catalog.Catalog) -> pd.DataFrame:
    """Match each source with the galaxy nearest to it, within its error radius."""
    left = lsdb.from_dataframe(sources, ra_column="ra", dec_column="dec", margin_threshold=None)
    pairs = left.crossmatch(
        galaxies, n_neighbors=1, radius_arcsec=MOST_ARCSEC, suffix_method="overlapping_columns"
    ).compute()
    within = pairs[pairs["_dist_arcsec"] <= pairs["error_arcsec"]]
    return within[["source_id", "object_id", "_dist_arcsec"]].reset_index(drop=True)


def alike(release: str, object_ids: list[int], folder: Path, k: int = 50) -> pd.DataFrame:
    """Find galaxies like these: how many of them have a galaxy among their `k` neighbours, and how near it is."""
    answer = folder / "neighbours.parquet"
    wanted = NeighboursJob(release=release, ids=tuple(map(str, object_ids)), k=k, output=str(answer))
    neighbours.run(wanted)
    rows = pd.read_parquet(answer)
    rows = rows[~rows["object_id"].isin(object_ids)]
    found = rows.groupby("object_id").agg(
        n_hosts=("query_id", "nunique"),
        nearest=("distance", "min"),
        ra_deg=("ra_deg", "first"),
        dec_deg=("dec_deg", "first"),
    )
    return found.sort_values(["n_hosts", "nearest"], ascending=[False, True])


def main(release: str, sources_csv: str, output: str) -> pd.DataFrame:
    """Write `hosts.csv` and `alike.csv`; return the latter."""
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)

    # 1. The release as a HATS collection: its components, and a margin, so that no match at a border is lost.
    collection = folder / "galaxies"
    if not collection.exists():
        hats.run(HatsJob(source=release, output=str(collection), margin_arcsec=MOST_ARCSEC, extensions=()))
    galaxies = lsdb.open_catalog(collection, columns=["object_id", "ra_deg", "dec_deg"])

    # 2. Hosts, and how many there would be by chance: the same sources, a little to the north.
    sources = pd.read_csv(sources_csv)
    matched = hosts(sources, galaxies)
    by_chance = hosts(sources.assign(dec=sources["dec"] + SHIFT_DEG), galaxies)
    print(f"{len(matched)} of {len(sources)} sources have a host; {len(by_chance)} would by chance")
    matched.to_csv(folder / "hosts.csv", index=False)

    # 3. Galaxies that look like them.
    found = alike(release, matched["object_id"].unique().tolist(), folder)
    found.to_csv(folder / "alike.csv")
    print(found.head(10).to_string())
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
