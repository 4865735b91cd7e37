"""Every path under an output folder, spelt once. All are relative to the output.

    OUTPUT/
    |-- current.json                     names the release that readers see; replaced in one step
    |-- lease.json                       which run works here now; gone when it ends
    |-- claims/{plan,embeddings,packed}.json   which catalogue, encoder and preset this output belongs to now
    |-- releases/<id>.json               a complete chain of artefacts
    |-- encoder/<id>/                    manifest.json  weights.safetensors
    |-- plan/<id>/                       manifest.json  units.parquet  rejects.parquet  HATS catalogue of the rows
    |-- changes/<id>/                    manifest.json  changes.parquet  units.parquet  carried/  HATS catalogue of the
    |                                    rows to embed: what differs from the release before
    |-- packed/<id>/                     manifest.json  rejects.parquet  HATS catalogue with the cutouts' bytes
    |-- embeddings/<id>/                 manifest.json  rejects.parquet  HATS catalogue
    |-- moments/<id>/                    manifest.json  moments.safetensors
    |-- components/<id>/                 manifest.json  pca.safetensors  pca.json  scree.png  HATS catalogue
    |-- predictions/<id>/              manifest.json  HATS catalogue
    |-- ellipse/<id>/                    manifest.json  rejects.parquet  HATS catalogue
    |-- map/<id>/                        manifest.json  layout.safetensors  points.parquet  HATS catalogue
    |-- report/<id>/                     manifest.json  report.json  report.html  tiles.parquet  prov.json
    |                                    lineage.ndjson  signatures/<key>.sig
    |-- index/<id>/                      manifest.json  cells.safetensors  and for each shard
    |                                    boxes-00000.safetensors  shard-00000.faiss  objects-00000.parquet
    `-- work/<id>/                       until a stage ends: attempts/<unit>-<n>  parts/<unit>-<attempt>.parquet
                                         commits/<unit>.json  drain-<holder>  pieces/<n>.parquet  shards/<n>.json

An artefact folder without its `manifest.json` is unfinished, and no reader opens it.

A release to hand on, as a HATS collection:

    COLLECTION/
    |-- collection.properties            last: without it the collection is unfinished
    |-- embeddings.properties            how to join a table of more columns: one for each
    |-- components/                      hats.properties  partition_info.csv  skymap.fits  point_map.fits  moc.fits
    |                                    data_thumbnail.parquet  per_partition_statistics.parquet  dataset/
    |-- components_10arcsec/             the margin: of each partition, what lies just outside of it
    `-- embeddings/                      and so on: as components

An answer in parts, and what a search has done so far:

    ANSWER/
    |-- manifest.json
    `-- parts/                           <unit>-<attempt>.parquet  unanswered.parquet
    ANSWER.work/                         or NAME.parquet.work, and so on; gone when the answer is there
    |-- lease.json
    `-- work/<id>/                       queries.parquet  unanswered.parquet  attempts  commits  parts

Bulk queries that a service was sent:

    JOBS/
    |-- lease.json                       which service works on them now
    `-- queries/<job>/
        |-- job.json                     who asks what; no job without it
        |-- table-<upload>               as it is sent; gone when it was read
        |-- asked-<upload>.parquet       its queries; gone, as work and parts are, when the job has ended
        |-- started.json  units.json  ended.json  deleted
        |-- work/<job>/  parts/          as of a search
        `-- result.parquet
"""

from schemas.manifest import Kind

CURRENT = "current.json"
LEASE = "lease.json"
RELEASES = "releases"
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
UNITS = "units.parquet"
CHANGES = "changes.parquet"
REJECTS = "rejects.parquet"
PCA_TENSORS = "pca.safetensors"
PCA_SUMMARY = "pca.json"
SCREE_PLOT = "scree.png"
MOMENTS = "moments.safetensors"
CELLS = "cells.safetensors"
LAYOUT = "layout.safetensors"
POINTS = "points.parquet"
DATASET = "dataset"
COLLECTION = "collection.properties"
PROPERTIES = "hats.properties"
UNPLACED = "unplaced.parquet"
POINT_MAP = "point_map.fits"
COVERAGE = "moc.fits"
REPORT = "report.json"
REPORT_PAGE = "report.html"
TILES = "tiles.parquet"
PROVENANCE = "prov.json"
LINEAGE = "lineage.ndjson"
SIGNATURES = "signatures"
WORK = "work"
PARTS = "parts"
QUERIES = "queries.parquet"
UNANSWERED = "unanswered.parquet"
QUERY_JOBS = "queries"
JOB = "job.json"
JOB_STARTED = "started.json"
JOB_UNITS = "units.json"
JOB_ENDED = "ended.json"
JOB_DELETED = "deleted"
RESULT = "result.parquet"


def claim(kind: Kind) -> str:
    """Path of the record that gives an output to one plan or one set of embeddings."""
    return f"claims/{kind}.json"


def release(release_id: str) -> str:
    """Path of a release record."""
    return f"{RELEASES}/{release_id}.json"


def artefact(kind: Kind, artefact_id: str) -> str:
    """Folder of an artefact."""
    return f"{kind}/{artefact_id}"


def manifest(kind: Kind, artefact_id: str) -> str:
    """Path of an artefact's manifest."""
    return f"{artefact(kind, artefact_id)}/{MANIFEST}"


def partition(order: int, pixel: int) -> str:
    """Path of a HATS partition, relative to its artefact (the HATS note, Section 3)."""
    return f"{DATASET}/Norder={order}/Dir={pixel // 10_000 * 10_000}/Npix={pixel}.parquet"


def carried(order: int, pixel: int) -> str:
    """Path of the rows of a partition whose vectors are those of the release before, relative to the changes."""
    return f"carried/Norder={order}/Npix={pixel}.parquet"


def shard(number: int) -> str:
    """Path of a FAISS shard, relative to its index."""
    return f"shard-{number:05d}.faiss"


def boxes(number: int) -> str:
    """Path of the boxes of a shard, relative to its index."""
    return f"boxes-{number:05d}.safetensors"


def shard_objects(number: int) -> str:
    """Path of the objects of a shard, in order of their ids, relative to its index."""
    return f"objects-{number:05d}.parquet"


def signature(key_id: str) -> str:
    """Path of a signature, relative to its report. No manifest names it: keys may sign at any time."""
    return f"{SIGNATURES}/{key_id}.sig"


def work(embeddings_id: str) -> str:
    """Folder of what embedding has done so far."""
    return f"{WORK}/{embeddings_id}"


def commits(embeddings_id: str) -> str:
    """Folder of the commit records of a run."""
    return f"{work(embeddings_id)}/commits"


def commit(embeddings_id: str, unit: str) -> str:
    """Path of a unit's commit record."""
    return f"{commits(embeddings_id)}/{unit}.json"


def attempt(embeddings_id: str, unit: str, number: int) -> str:
    """Path of the mark that a worker makes before its `number`th attempt at a unit."""
    return f"{work(embeddings_id)}/attempts/{unit}-{number}"


def drain(embeddings_id: str, holder: str) -> str:
    """Path of the mark that tells the workers of one run to begin no further unit."""
    return f"{work(embeddings_id)}/drain-{holder}"


def piece(number: int) -> str:
    """Path of some objects sorted by the shards they go to, relative to the work folder."""
    return f"pieces/{number:05d}.parquet"


def shard_record(number: int) -> str:
    """Path of the record of a shard that was built, relative to the work folder."""
    return f"shards/{number:05d}.json"


def part(unit: str, attempt: str) -> str:
    """Path of an attempt's rows, relative to the work folder."""
    return f"{PARTS}/{unit}-{attempt}.parquet"


def part_rejects(unit: str, attempt: str) -> str:
    """Path of an attempt's rejects, relative to the work folder."""
    return f"{PARTS}/{unit}-{attempt}.rejects.parquet"


def answer_work(output: str) -> str:
    """Folder of what a search has done so far, beside its answer."""
    return f"{output.rstrip('/')}.work"


def query_job(job_id: str) -> str:
    """Folder of a job that a service was sent."""
    return f"{QUERY_JOBS}/{job_id}"


def uploaded(upload: str) -> str:
    """Path of a table while it is sent, relative to its job."""
    return f"table-{upload}"


def asked(upload: str) -> str:
    """Path of the queries of a table that was sent, relative to its job."""
    return f"asked-{upload}.parquet"
