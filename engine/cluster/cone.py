"""Objects of a cone, from the partitions of a release that reach into it. Starts no cluster."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from engine.compute.sky import separation_arcsec, unit_vectors
from engine.compute.sky_match import caps_around, within_reach
from engine.storage.parquet import read_table
from engine.storage.store import Store
from schemas.partition import Partition
from schemas.service import Cone
from schemas.tables import DEC, OBJECT_ID, RA, SEPARATION

_READS_IN_FLIGHT = 8


def objects_in(catalogue: Store, partitions: Sequence[Partition], cone: Cone, columns: Sequence[str]) -> pa.Table:
    """Read the objects of a cone, or on its edge.

    Parameters
    ----------
    catalogue : Store
        Folder of a HATS catalogue.
    partitions : sequence of Partition
        All of the catalogue, at least one.
    cone : Cone
    columns : sequence of str
        `object_id`, `ra_deg` and `dec_deg` among them.

    Returns
    -------
    pa.Table
        Of these columns and `separation_arcsec`, the nearest to the centre first; objects that are exactly as near in
        order of id.

    Raises
    ------
    IntegrityError
        A file is damaged.
    """
    caps = caps_around(np.array([part.order for part in partitions]), np.array([part.pixel for part in partitions]))
    centre = unit_vectors(np.array([cone.ra_deg]), np.array([cone.dec_deg]))
    reached = within_reach(centre, np.array([np.radians(cone.radius_arcsec / 3600)]), caps).pixels.tolist()

    def read(number: int) -> pa.Table:
        table = read_table(catalogue, partitions[number].path, columns)
        apart = separation_arcsec(cone.ra_deg, cone.dec_deg, table[RA].to_numpy(), table[DEC].to_numpy())
        table = table.append_column(SEPARATION, pa.array(apart))
        return table.filter(pa.array(apart <= cone.radius_arcsec))

    with ThreadPoolExecutor(_READS_IN_FLIGHT) as threads:
        # One that is not reached gives the columns where none is.
        found = list(threads.map(read, reached or [0]))
    return pa.concat_tables(found).sort_by([(SEPARATION, "ascending"), (OBJECT_ID, "ascending")])
