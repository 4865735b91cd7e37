"""Heads over Ray: labelled embeddings gathered from their partitions, and every object scored by a head."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from engine.cluster.stream import stream
from engine.compute.head import HeadKind, make_head, outputs_of
from engine.compute.labels import LabelKind, scores
from engine.compute.vote_loss import concentrations, expected_fractions
from engine.storage.arrays import read_arrays
from engine.storage.arrow_stream import from_bytes, to_bytes
from engine.storage.artefacts import decode, encode
from engine.storage.parquet import as_matrix, read_table, write_table
from engine.storage.store import Store
from schemas.model import HEAD, Model
from schemas.partition import PartitionFile
from schemas.tables import DEC, EMBEDDING, OBJECT_ID, POSITION, RA
from schemas.tree import Tree


class Gathered(NamedTuple):
    """Embeddings of some objects, in order of id."""

    objects: pa.Table
    """object_id, ra_deg, dec_deg."""
    features: np.ndarray
    """(n, d) float32."""


class HeadTask(NamedTuple):
    """How to make and read a head."""

    model: str
    """Folder of `head.safetensors`."""
    kind: LabelKind | Literal["votes"]
    head: HeadKind
    dimension: int
    names: tuple[str, ...]
    centre: float = 0.0
    width: float = 1.0
    questions: tuple[slice, ...] = ()
    """Columns of each question, of votes."""


def head_task(model: Model, store: Store) -> HeadTask:
    """Say how to read the head of a model."""
    questions = Tree.model_validate(model.tree).slices if model.tree else ()
    return HeadTask(
        store.uri(), model.kind, model.head, model.dimension, tuple(model.names), model.centre, model.width, questions
    )


def gather(
    embeddings: Store, partitions: Sequence[PartitionFile], ids: pa.Array, advance: Callable[[int], None]
) -> Gathered:
    """Read the embeddings of objects by their ids, those that are there."""

    def run(record: dict[str, Any]) -> dict[str, Any]:
        found = read_table(embeddings, record["path"], [OBJECT_ID]).column(OBJECT_ID)
        if not pc.any(pc.is_in(found, value_set=ids)).as_py():
            return {"rows": b""}
        table = read_table(embeddings, record["path"], [OBJECT_ID, RA, DEC, EMBEDDING])
        return {"rows": to_bytes(table.filter(pc.is_in(table[OBJECT_ID], value_set=ids)))}

    tables = []
    for record in stream([{"path": part.partition.path} for part in partitions], {"fn": run}):
        advance(1)
        if record["rows"]:
            tables.append(from_bytes(record["rows"]))
    if not tables:
        return Gathered(pa.table({OBJECT_ID: ids[:0], RA: np.empty(0), DEC: np.empty(0)}), np.empty((0, 0), np.float32))
    table = pa.concat_tables(tables).sort_by(OBJECT_ID)
    return Gathered(table.drop_columns([EMBEDDING]), as_matrix(table[EMBEDDING]))


def score_all(
    embeddings: Store,
    target: Store,
    partitions: Sequence[PartitionFile],
    task: HeadTask,
    advance: Callable[[int], None],
) -> list[PartitionFile]:
    """Write the scores of every object, a partition at a time, beside its id and position."""

    def run(record: dict[str, Any]) -> dict[str, Any]:
        part = decode(PartitionFile, record["part"], "partition record")
        return {"part": encode(score_partition(embeddings, target, part, task))}

    written = []
    for record in stream([{"part": encode(part)} for part in partitions], {"fn": run}):
        written.append(decode(PartitionFile, record["part"], "partition record"))
        advance(written[-1].n_rows)
    return sorted(written, key=lambda part: part.partition.first_healpix)


def score_partition(embeddings: Store, target: Store, part: PartitionFile, task: HeadTask) -> PartitionFile:
    """Score one partition."""
    table = read_table(embeddings, part.partition.path, [*POSITION, EMBEDDING])
    columns = {name: table[name] for name in POSITION} | answers(open_head(task), as_matrix(table[EMBEDDING]), task)
    return PartitionFile(
        partition=part.partition, n_rows=part.n_rows, file=write_table(target, part.partition.path, pa.table(columns))
    )


def open_head(task: HeadTask) -> torch.nn.Module:
    """Read a head."""
    head = make_head(task.head, task.dimension, len(task.names), seed=0)
    state = {name: torch.from_numpy(value) for name, value in read_arrays(Store(task.model), HEAD).items()}
    head.load_state_dict(state)
    return head.eval()


def answers(head: torch.nn.Module, features: np.ndarray, task: HeadTask) -> dict[str, np.ndarray]:
    """What a head says of embeddings, (n, d), by column: scores; of votes, fractions and concentrations."""
    outputs = outputs_of(head, features)
    if task.kind != "votes":
        return score_columns(scores(outputs, task.kind, task.centre, task.width), task.names)
    alpha = concentrations(torch.from_numpy(outputs))
    fractions = expected_fractions(alpha, task.questions).numpy()
    return {
        f"{name}_{what}": np.ascontiguousarray(values[:, at])
        for at, name in enumerate(task.names)
        for what, values in (("fraction", fractions), ("concentration", alpha.numpy()))
    }


def score_columns(scored: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Name the columns of scores: `score_` and the class, answer or target."""
    return {f"score_{name}": np.ascontiguousarray(column) for name, column in zip(names, scored.T, strict=True)}


def gather_objects(
    plan: Store, partitions: Sequence[PartitionFile], ids: pa.Array, advance: Callable[[int], None]
) -> pa.Table:
    """Read planned objects by their ids, with pins of their cutouts, in order of id."""

    def run(record: dict[str, Any]) -> dict[str, Any]:
        table = read_table(plan, record["path"])
        return {"rows": to_bytes(table.filter(pc.is_in(table[OBJECT_ID], value_set=ids)))}

    tables = []
    for record in stream([{"path": part.partition.path} for part in partitions], {"fn": run}):
        advance(1)
        tables.append(from_bytes(record["rows"]))
    return pa.concat_tables(tables).sort_by(OBJECT_ID).combine_chunks()
