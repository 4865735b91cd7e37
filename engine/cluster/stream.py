"""One way of mapping over many small records with Ray Data, in a single streaming execution."""

from collections.abc import Iterator, Sequence
from functools import wraps
from typing import Any

import ray

from engine.cluster.metrics import record_store_requests
from engine.cluster.ray_metrics import measured
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
        dataset = dataset.map(**{**stage, "fn": _measured(stage["fn"])})
    with causes():
        for row in dataset.iter_rows():
            record_store_requests()
            yield row


def _measured(stage: Any) -> Any:
    """Let Ray collect what a stage counts: a function, or a class whose instances are called."""
    if not isinstance(stage, type):

        @wraps(stage)
        def call(*arguments: Any, **named: Any) -> Any:
            with measured():
                return stage(*arguments, **named)

        return call

    class Measured(stage):  # type: ignore[misc]
        def __call__(self, *arguments: Any, **named: Any) -> Any:
            with measured():
                return super().__call__(*arguments, **named)

    Measured.__name__, Measured.__qualname__ = stage.__name__, stage.__qualname__
    return Measured
