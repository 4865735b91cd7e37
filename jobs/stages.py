"""The stages of a release as data: what each needs, and what makes it. Each finds what is done, and goes on from there.

plan ----+
         +--> embed --> reduce --> index ==> published ==> map, predict, rank, report: where the job asks for them
encoder -+
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

from pydantic import ValidationError

from engine.storage.lease import Held
from engine.storage.store import Store
from jobs import embed, encoder, index, plan, reduce
from jobs.previous import Previous
from schemas.campaign import RankJob
from schemas.config import ReleaseJob, Section, ThenConfig
from schemas.errors import ConfigError
from schemas.manifest import Manifest
from schemas.map import MapJob
from schemas.model import PredictJob
from schemas.report import ReportJob
from schemas.validation import describe

StageName = Literal["plan", "encoder", "embed", "reduce", "index"]


@dataclass
class Work:
    """A release that is being made."""

    job: ReleaseJob
    store: Store
    held: Held
    previous: Previous | None
    made: dict[StageName, Manifest] = field(default_factory=dict)


class Stage(NamedTuple):
    """One step from a catalogue to a published release."""

    name: StageName
    needs: tuple[StageName, ...]
    run: Callable[[Work], Manifest]


def _plan(work: Work) -> Manifest:
    goes_on = work.previous is not None and work.previous.is_in(work.store)
    return plan.run(work.job.catalogue, work.job.plan, work.store, goes_on)


def _encoder(work: Work) -> Manifest:
    return encoder.run(work.job.encoder, encoder.preset_of(work.job.encoder, work.job.embed), work.store)


def _embed(work: Work) -> Manifest:
    job, preset = work.job, encoder.preset_of(work.job.encoder, work.job.embed)
    planned, network = work.made["plan"], work.made["encoder"]
    return embed.run(planned, network, preset, job.cutouts, job.embed, job.ray, work.store, work.held, work.previous)


def _reduce(work: Work) -> Manifest:
    return reduce.run(work.made["embed"], work.job.reduce, work.job.ray, work.store, work.previous)


def _index(work: Work) -> Manifest:
    return index.run(work.made["reduce"], work.job.index, work.job.ray, work.store, work.held, work.previous)


STAGES = (
    Stage("plan", (), _plan),
    Stage("encoder", (), _encoder),
    Stage("embed", ("plan", "encoder"), _embed),
    Stage("reduce", ("embed",), _reduce),
    Stage("index", ("reduce",), _index),
)


def run_stages(work: Work, *names: StageName) -> Manifest:
    """Run some stages in their order; return what the last one made. `work` holds what stages before them made."""
    for stage in STAGES:
        if stage.name in names:
            missing = [need for need in stage.needs if need not in work.made]
            assert not missing, f"{stage.name} needs {missing}"
            work.made[stage.name] = stage.run(work)
    return work.made[names[-1]]


class Later(NamedTuple):
    """A job on the published release."""

    name: str
    model: type[Section]
    run: Callable[[Any], Any]


def _map(job: MapJob) -> Any:
    from jobs import map as job_module

    return job_module.run(job)


def _predict(job: PredictJob) -> Any:
    from jobs import predict as job_module

    return job_module.run(job)


def _rank(job: RankJob) -> Any:
    from jobs import rank as job_module

    return job_module.run(job)


def _report(job: ReportJob) -> Any:
    from jobs import report_card as job_module

    return job_module.run(job)


LATER = (
    Later("map", MapJob, _map),
    Later("predict", PredictJob, _predict),
    Later("rank", RankJob, _rank),
    Later("report", ReportJob, _report),
)


def later_jobs(job: ReleaseJob) -> list[tuple[Later, Section]]:
    """Compose the jobs that follow the release.

    Raises
    ------
    ConfigError
        One of them has a key or value that it cannot have.
    """
    found = []
    for later in LATER:
        settings = getattr(job.then, later.name)
        if settings is not None:
            try:
                found.append((later, later.model.model_validate(settings | {"release": job.output})))
            except ValidationError as error:
                raise ConfigError(f"then.{later.name}: {describe(error, later.model)}") from error
    return found


assert [later.name for later in LATER] == list(ThenConfig.model_fields)
assert [stage.name for stage in STAGES] == list(get_args(StageName))
