"""Job: release. Plan, embed, reduce and index in one go, or stage by stage; what is done already is skipped."""

from engine.storage.artefacts import claimed, read_manifest
from engine.storage.lease import lease
from engine.storage.store import Store
from engine.storage.weights import check_source
from jobs import embed, encoder, index, plan, preflight, reduce
from schemas.config import ReleaseJob
from schemas.manifest import Manifest


def run(job: ReleaseJob) -> Manifest:
    """Run every stage; return the index, whose parents are the rest."""
    store = Store(job.output)
    check_inputs(job)
    with lease(store) as held:
        planned = plan.run(job.catalogue, job.plan, store)
        preset = encoder.preset_of(job.encoder, job.embed)
        network = encoder.run(job.encoder, preset, store)
        embeddings = embed.run(planned, network, preset, job.cutouts, job.embed, job.ray, store, held)
        components = reduce.run(embeddings, job.reduce, job.ray, store)
        return index.run(components, job.index, job.ray, store, held)


def run_plan(job: ReleaseJob) -> Manifest:
    """Run the first stage: plan the catalogue."""
    check_inputs(job)
    store = Store(job.output)
    with lease(store):
        return plan.run(job.catalogue, job.plan, store)


def run_preflight(job: ReleaseJob, options: preflight.Options) -> preflight.Preflight | None:
    """Run the first stage, fix the encoder, and predict what the second stage takes. Raises as `preflight.run`."""
    check_inputs(job)
    prices = preflight.read_prices(options)
    store = Store(job.output)
    with lease(store):
        planned = plan.run(job.catalogue, job.plan, store)
        network = encoder.run(job.encoder, encoder.preset_of(job.encoder, job.embed), store)
    return preflight.run(planned, network, job, store, options, prices)


def run_embed(job: ReleaseJob) -> Manifest:
    """Run the second stage on the plan that the output holds."""
    store = Store(job.output)
    check_inputs(job)
    planned = read_manifest(store, "plan", claimed(store, "plan"))
    with lease(store) as held:
        preset = encoder.preset_of(job.encoder, job.embed)
        network = encoder.run(job.encoder, preset, store)
        return embed.run(planned, network, preset, job.cutouts, job.embed, job.ray, store, held)


def run_reduce(job: ReleaseJob) -> Manifest:
    """Run the third stage on the embeddings that the output holds."""
    store = Store(job.output)
    embeddings = read_manifest(store, "embeddings", claimed(store, "embeddings"))
    with lease(store):
        return reduce.run(embeddings, job.reduce, job.ray, store)


def run_index(job: ReleaseJob) -> Manifest:
    """Run the last stage on the components that `reduce` made with this job's settings."""
    store = Store(job.output)
    components = read_manifest(store, "components", reduce.components_id(claimed(store, "embeddings"), job.reduce))
    with lease(store) as held:
        return index.run(components, job.index, job.ray, store, held)


def check_inputs(job: ReleaseJob) -> None:
    """Refuse a wrong preset, or missing weights or architecture, before anything is read.

    Raises
    ------
    ConfigError, InputNotFoundError
    """
    check_source(job.encoder.weights)
    encoder.preset_of(job.encoder, job.embed)
    encoder.architecture_of(job.encoder)
