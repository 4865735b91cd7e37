"""One way of mapping over many small records with Ray Data, in a single streaming execution."""

from collections.abc import Iterator, Sequence
from typing import Any

import ray

from engine.cluster.session import causes

MOST_BLOCKS = 2_000
"""A block is the unit of Ray's retries; beyond this many records, a block carries several."""


Stage = dict[str, Any]
"""Arguments of `ray.data.Dataset.map`: `fn` (record to record; a class is constructed once per actor), resources."""


def stream(records: Sequence[dict[str, Any]], *stages: Stage, in_order: bool = False) -> Iterator[dict[str, Any]]:
    """Map records through stages, one at a time; yield each result when it is there.

    Parameters
    ----------
    records : sequence of dict
        Small: they go through the driver. None gives none.
    *stages : dict
        At least one.
    in_order : bool
        Yield results in the order of the records; else in no particular one.

    Raises
    ------
    VoorwerpError
        What a stage raised, after Ray's own retries of lost workers.
    """
    if not records:
        return
    dataset: ray.data.Dataset = ray.data.from_items(list(records), override_num_blocks=min(len(records), MOST_BLOCKS))
    dataset.context.execution_options.preserve_order = in_order
    for stage in stages:
        dataset = dataset.map(**stage)
    with causes():
        yield from dataset.iter_rows()
