"""A unit in three stages, for encoders on GPUs: what one process does in `engine.cluster.unit`, spread over a cluster.

    load (CPU tasks, on any node) ---> encode (GPU actors) ---> write and commit (CPU tasks)

Views travel between nodes, not cutouts: they are as large, and CPUs that would idle have resized them. Ray Data holds
back the loading when the encoders do not keep up.
"""

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any

import numpy as np

from engine.cluster.loading import FATAL, changed_rows, threaded
from engine.cluster.protocol import begin
from engine.cluster.task import EmbedTask, is_draining, open_encoder
from engine.cluster.unit import Begun, Embedded, OneByOne, begin_unit, broken, commit_unit, pooled
from engine.compute.rejects import Reject
from engine.storage.arrow_stream import from_bytes, to_bytes
from engine.storage.artefacts import encode
from engine.storage.store import Store
from schemas.manifest import Commit
from schemas.partition import Unit
from schemas.reject import RejectReason

Row = dict[str, Any]
"""Of Ray Data: arrays, bytes and numbers."""


def load_unit(record: Row, task: EmbedTask, one_by_one: OneByOne) -> Row:
    """First stage: begin a unit, read and decode its cutouts. A unit that is suspect is embedded here, row by row."""
    if is_draining(task):
        return _row()
    begun = begin_unit(Unit(**record), task)
    if isinstance(begun, Commit):
        return _row(commit=encode(begun))
    found: Row = {}
    rejects: Mapping[int, Reject]
    if begun.is_suspect:
        found["vectors"], rejects, _, found["runtime"], _ = one_by_one(begun.objects, task)
    else:
        started = perf_counter()
        try:
            with threaded(task) as loader:
                loaded = loader(begun.objects)()
            changed = changed_rows(begun.objects)
        except FATAL:
            os._exit(1)  # Ray starts another worker.
        rejects = loaded.rejects | changed
        found["decode_s"] = perf_counter() - started
        found["views"] = loaded._replace(rejects=rejects).flat()
    return _row(
        begun=json.dumps([begun.unit, begun.number, begun.since]).encode(),
        objects=to_bytes(begun.objects),
        rejects=_rejects_to_bytes(rejects),
        **found,
    )


class EncodeUnit:
    """Second stage: the actor that holds the encoder; views become vectors."""

    def __init__(self, task: EmbedTask, threads: int) -> None:
        self._task = task
        self._runtime, self._encode = open_encoder(task, threads)
        self._marker = ThreadPoolExecutor(1)

    def __call__(self, record: Row) -> Row:
        """Encode the views of a unit; what needs no encoding passes.

        Raises
        ------
        WorkersLostError
            Too many actors died over this unit. The attempts are counted while the encoder works: it never waits.
        """
        views = record.pop("views")
        if len(views):
            name = f"{json.loads(record['begun'])[0][0]}.encode"
            marked = self._marker.submit(begin, Store(self._task.output), self._task.run_id, name)
            started = perf_counter()
            record["vectors"] = pooled(self._encode(views), self._task.views)
            record["encode_s"] = perf_counter() - started
            record["runtime"] = self._runtime
            marked.result()
        return record


def write_unit(record: Row, task: EmbedTask) -> Row:
    """Third stage: write and commit a unit; return its encoded commit record, or nothing when the run is draining."""
    if not record["begun"]:
        return {"commit": record["commit"]}
    unit, number, since = json.loads(record["begun"])
    begun = Begun(Unit(*unit), number, from_bytes(record["objects"]), since)
    rejects = _rejects_from_bytes(record["rejects"])
    vectors = record["vectors"]
    if len(vectors) < len(begun.objects):
        good = [row for row in range(len(begun.objects)) if row not in rejects]
        placed = np.zeros((len(begun.objects), task.dimension), np.float32)
        placed[good] = vectors
        vectors = placed
    found = Embedded(vectors, rejects | broken(vectors), record["encode_s"], record["runtime"], record["decode_s"])
    return {"commit": encode(commit_unit(begun, found, task))}


def _row(**known: Any) -> Row:
    """Make the row that the first stage hands on; what is not known is empty, as Ray Data wants every key in each."""
    empty: Row = {
        "commit": b"",
        "begun": b"",
        "objects": b"",
        "views": np.zeros((0, 1, 1, 1), np.float32),
        "vectors": np.zeros((0, 1), np.float32),
        "rejects": b"",
        "encode_s": 0.0,
        "decode_s": 0.0,
        "runtime": "",
    }
    return empty | known


def _rejects_to_bytes(rejects: Mapping[int, Reject]) -> bytes:
    return json.dumps([[row, reject.reason.name, reject.detail] for row, reject in rejects.items()]).encode()


def _rejects_from_bytes(data: bytes) -> dict[int, Reject]:
    return {row: Reject(RejectReason[name], detail) for row, name, detail in json.loads(data)}
