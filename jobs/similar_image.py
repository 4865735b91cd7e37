"""Job: similar-image. New images are embedded as the release's own cutouts were, and their nearest objects listed."""

import numpy as np
import pyarrow as pa

from engine.cluster.answer import unanswered
from engine.cluster.bulk import Asked
from engine.cluster.filters import open_filter
from engine.cluster.machine import cpus_of_machine
from engine.cluster.opened import open_release
from engine.cluster.resolve import Resolved
from engine.storage.store import Store
from jobs.neighbours import give, question_of
from jobs.report import note, warn
from jobs.units import check_output
from schemas.config import SimilarImageJob
from schemas.errors import DataError


def run(job: SimilarImageJob) -> pa.Table:
    """List the objects most similar to images; query 0 of the answer is the first image.

    Raises
    ------
    ConfigError
        The output's name is of no known kind.
    DataError
        No image can be read.
    """
    if job.output:
        check_output(job.output, may_be_folder=False)
    release = open_release(Store(job.release), job.as_of)
    question, passing = question_of(job, release), open_filter(release, job.filter)
    from engine.cluster.similar import place_images  # It brings PyTorch: what is wrong above is told at once.

    placed = place_images(release, job.images, "cuda" if job.device == "cuda" else "cpu", cpus_of_machine())
    bad = sorted(placed.rejects)
    reasons = [f"{placed.rejects[at].reason}: {placed.rejects[at].detail}" for at in bad]
    for at, reason in zip(bad, reasons, strict=True):
        warn(f"{job.images[at]}: {reason}")
    if len(bad) == len(job.images):
        raise DataError(
            f"expected at least one image that can be read, found none of {len(job.images):,}: {reasons[0]}"
        )
    good = np.setdiff1d(np.arange(len(job.images)), bad)
    resolved = Resolved(
        Asked(good, None, placed.vectors[good]), unanswered(np.array(bad, np.int64), reasons, release.id_type)
    )
    note("images", f"{len(job.images):,} given = {len(good):,} placed + {len(bad):,} rejected")
    return give(job, release, resolved, question, passing, dict(enumerate(job.images)))
