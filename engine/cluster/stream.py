"""One way of mapping over many small records with Ray Data, in a single streaming execution."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray

from engine.cluster.session import causes

MOST_BLOCKS = 2_000
"""A block is the unit of Ray's retries; beyond this many records, a block carries several."""


def stream(records: Sequence[dict[str, Any]], function: Callable[..., Any], **options: Any) -> Iterator[dict[str, Any]]:
    """Map records, one at a time and in no particular order; yield each result when it is there.

    Parameters
    ----------
    records : sequence of dict
        Small: they go through the driver. None gives none.
    function : callable or class
        Record to record; a class is constructed once per actor.
    **options
        Of `ray.data.Dataset.map`: `compute`, `num_cpus`, `num_gpus`, `fn_constructor_args`.

    Raises
    ------
    VoorwerpError
        What `function` raised, after Ray's own retries of lost workers.
    """
    if not records:
        return
    dataset = ray.data.from_items(list(records), override_num_blocks=min(len(records), MOST_BLOCKS))
    with causes():
        yield from dataset.map(function, **options).iter_rows()
