"""Sets of real galaxies with classes, outside the repository: a folder with catalogue.csv, which names cutouts."""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DATA = Path(os.environ.get("VOORWERP_BENCH_DATA", Path(__file__).parents[3] / "shared" / "data"))


@dataclass(frozen=True)
class Galaxies:
    """A set in the order of its catalogue."""

    name: str
    ids: list[str]
    files: list[Path]
    classes: np.ndarray

    @property
    def folder(self) -> Path:
        """Where the catalogue is."""
        return DATA / self.name

    def rows(self, ids: Sequence[int | str]) -> list[int]:
        """Rows of ids, which a release may have turned into integers."""
        known = {object_id: row for row, object_id in enumerate(self.ids)}
        return [known[str(object_id)] for object_id in ids]


def missing(names: Sequence[str]) -> str | None:
    """What to tell a person who has not all of these sets; None where nothing is missing."""
    absent = [DATA / name / "catalogue.csv" for name in names if not (DATA / name / "catalogue.csv").is_file()]
    if not absent:
        return None
    return f"expected galaxies at {absent[0]}, found nothing; set VOORWERP_BENCH_DATA to the folder of the sets"


def read_galaxies(name: str, class_column: str, class_names: dict[str, str]) -> Galaxies:
    """Read a set; `class_names` renames or merges classes, the others keep their names."""
    with (DATA / name / "catalogue.csv").open() as file:
        rows = list(csv.DictReader(file))
    return Galaxies(
        name,
        [row["object_id"] for row in rows],
        [DATA / name / row["cutout"] for row in rows],
        np.array([class_names.get(row[class_column], row[class_column]) for row in rows]),
    )
