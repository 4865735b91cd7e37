"""Job: release. Plan, embed, reduce and index in one go, or stage by stage; what is done already is skipped."""

from engine.storage.artefacts import claimed, read_manifest
from engine.storage.lease import Held, lease
from engine.storage.store import Store
from engine.storage.weights import check_source
from jobs import encoder, preflight, reduce
from jobs.previous import find_previous
from jobs.stages import Work, later_jobs, run_stages
from schemas.config import ReleaseJob
from schemas.manifest import Manifest


def run(job: ReleaseJob) -> Manifest:
    """Run every stage, then the jobs that are to follow; return the index, whose parents are the rest."""
    store = Store(job.output)
    check_inputs(job)
    following = later_jobs(job)
    with lease(store) as held:
        index = run_stages(_work(job, store, held), "plan", "encoder", "embed", "reduce", "index")
    for later, settings in following:
        later.run(settings)
    return index


def run_plan(job: ReleaseJob) -> Manifest:
    """Run the first stage: plan the catalogue."""
    check_inputs(job)
    store = Store(job.output)
    with lease(store) as held:
        return run_stages(_work(job, store, held), "plan")


def run_preflight(job: ReleaseJob, options: preflight.Options) -> preflight.Preflight | None:
    """Run the first stage, fix the encoder, and predict what the second stage takes. Raises as `preflight.run`."""
    check_inputs(job)
    prices = preflight.read_prices(options)
    store = Store(job.output)
    with lease(store) as held:
        work = _work(job, store, held)
        run_stages(work, "plan", "encoder")
    return preflight.run(work.made["plan"], work.made["encoder"], job, store, options, prices)


def run_embed(job: ReleaseJob) -> Manifest:
    """Run the second stage on the plan that the output holds."""
    store = Store(job.output)
    check_inputs(job)
    planned = read_manifest(store, "plan", claimed(store, "plan"))
    with lease(store) as held:
        work = _work(job, store, held)
        work.made["plan"] = planned
        return run_stages(work, "encoder", "embed")


def run_reduce(job: ReleaseJob) -> Manifest:
    """Run the third stage on the embeddings that the output holds."""
    store = Store(job.output)
    embeddings = read_manifest(store, "embeddings", claimed(store, "embeddings"))
    with lease(store) as held:
        work = _work(job, store, held)
        work.made["embed"] = embeddings
        return run_stages(work, "reduce")


def run_index(job: ReleaseJob) -> Manifest:
    """Run the last stage on the components that `reduce` made with this job's settings."""
    store = Store(job.output)
    embeddings_id = claimed(store, "embeddings")
    with lease(store) as held:
        work = _work(job, store, held)
        basis = reduce.basis_of(work.previous, job.reduce)
        components_id = reduce.components_id(embeddings_id, job.reduce, basis=basis)
        work.made["reduce"] = read_manifest(store, "components", components_id)
        return run_stages(work, "index")


def check_inputs(job: ReleaseJob) -> None:
    """Refuse a wrong preset, or missing weights or architecture, before anything is read.

    Raises
    ------
    ConfigError, InputNotFoundError
    """
    check_source(job.encoder.weights)
    encoder.preset_of(job.encoder, job.embed)
    encoder.architecture_of(job.encoder)


def _work(job: ReleaseJob, store: Store, held: Held) -> Work:
    """Look up the release before only under the lease: another run may be publishing it."""
    return Work(job, store, held, find_previous(job.onto) if job.onto else None)
