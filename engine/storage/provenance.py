"""Where a release came from: as PROV-JSON (W3C) with terms of the IVOA data model (1.0), and as OpenLineage runs.

    catalogue --> plan --> embeddings --> components --> index --> report     entities, datasets
    weights --> encoder ----^                                                 each made by an activity, a run

Nothing in either says where a file lies. Times are those of manifests: a stage ended when its manifest was written, and
began as much earlier as it took, although a run that was stopped and resumed began before that.
"""

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from schemas.manifest import Manifest, Release
from schemas.report import Encoder

NAMESPACE = "urn:voorwerp:"
"""Of what is named here: ids are hashes of content, and nothing is to be fetched."""
VOPROV = "http://www.ivoa.net/documents/ProvenanceDM/index.html#"
PRODUCER = "urn:voorwerp:engine"
_RUNS = uuid.uuid5(uuid.NAMESPACE_URL, NAMESPACE)
_SUMS = ("at_work",)


def stages_of(manifest: Manifest) -> dict[str, float]:
    """Durations of a manifest that follow each other on a clock; sums over workers are left out."""
    durations = manifest.durations_s.items()
    return {name: seconds for name, seconds in durations if not name.endswith("_sum") and name not in _SUMS}


class Made(NamedTuple):
    """What provenance is about."""

    release: Release
    manifests: Sequence[Manifest]
    """Of its artefacts."""
    catalogue: str
    """Name of the catalogue, without its place."""
    encoder: Encoder
    report: str
    """Id of the report."""
    code_sha256: str
    """Of the code that wrote it."""
    at_utc: str


def provenance(made: Made) -> bytes:
    """Write provenance as PROV-JSON."""
    from prov.model import ProvDocument

    document = ProvDocument()
    document.add_namespace("voorwerp", NAMESPACE)
    document.add_namespace("voprov", VOPROV)
    engine = _add_software(document, made.release.versions)
    outside = _add_sources(document, made)
    entities: dict[str, Any] = {manifest.kind: _add_artefact(document, made, manifest) for manifest in made.manifests}
    for manifest in made.manifests:
        began, ended = _times(manifest)
        name = f"{manifest.kind}/{manifest.id}"
        activity = document.activity(f"voorwerp:run/{name}", began, ended, {"voprov:name": _job(manifest.kind)})
        settings = document.entity(
            f"voorwerp:config/{name}",
            {
                "prov:type": "voprov:ConfigFile",
                "voprov:name": f"settings of {manifest.kind}",
                "voorwerp:sha256_begins": manifest.id,
            },
        )
        entity = entities[manifest.kind]
        document.wasGeneratedBy(entity, activity, ended, None, {"prov:role": manifest.kind})
        document.wasAssociatedWith(activity, engine, None, None, {"prov:role": "software"})
        document.wasAttributedTo(entity, engine)
        document.used(activity, settings, None, None, {"prov:role": "settings"})
        parents = [
            (entities.get(kind) or document.entity(f"voorwerp:{kind}/{parent.id}"), kind)
            for kind, parent in manifest.parents.items()
        ]
        for other, role in [*outside.get(manifest.kind, []), *parents]:
            document.used(activity, other, None, None, {"prov:role": role})
            document.wasDerivedFrom(entity, other)
    whole = document.collection(f"voorwerp:release/{made.release.id}", {"voprov:name": f"release {made.release.id}"})
    for entity in entities.values():
        document.hadMember(whole, entity)
    _add_report(document, made, whole, engine)
    return f"{document.serialize(format='json', indent=1, sort_keys=True)}\n".encode()


def _add_software(document: Any, versions: Mapping[str, str]) -> Any:
    """Add the software that made a release; return the engine, on whose behalf the libraries acted."""
    agents = {}
    for name, version in sorted(versions.items()):
        about = {"prov:type": "prov:SoftwareAgent", "voprov:type": "SoftwareAgent", "voprov:name": f"{name} {version}"}
        agents[name] = document.agent(f"voorwerp:software/{name}/{version}", about | {"voorwerp:version": version})
    engine = agents.pop("voorwerp")
    for agent in agents.values():
        document.actedOnBehalfOf(agent, engine)
    return engine


def _add_sources(document: Any, made: Made) -> dict[str, list[tuple[Any, str]]]:
    """Add what came from outside; return it by the artefact that was made from it, with its role."""
    encoder, plan = made.encoder, next(manifest for manifest in made.manifests if manifest.kind == "plan")
    hashes = {f"voorwerp:{name}": one for name, one in sorted(plan.identity.items()) if name.endswith("_sha256")}
    dataset, config = "voprov:DatasetEntity", "voprov:ConfigFile"
    catalogue = document.entity(
        f"voorwerp:catalogue/{plan.id}", {"prov:type": dataset, "voprov:name": made.catalogue, **hashes}
    )
    weights = document.entity(
        f"voorwerp:weights/{encoder.weights_sha256}",
        {"prov:type": dataset, "voprov:name": encoder.weights, "voorwerp:sha256": encoder.weights_sha256},
    )
    preset = document.entity(
        f"voorwerp:preset/{encoder.preset_sha256}",
        {"prov:type": config, "voprov:name": encoder.preset, "voorwerp:sha256": encoder.preset_sha256},
    )
    return {"plan": [(catalogue, "catalogue")], "encoder": [(weights, "weights")], "embeddings": [(preset, "preset")]}


def _add_artefact(document: Any, made: Made, manifest: Manifest) -> Any:
    counts = {f"voorwerp:n_{name}": count for name, count in sorted(manifest.counts.items())}
    return document.entity(
        f"voorwerp:{manifest.kind}/{manifest.id}",
        {
            "prov:type": "voprov:DatasetEntity",
            "voprov:name": f"{manifest.kind} {manifest.id}",
            "voprov:generatedAtTime": _times(manifest)[1],
            "voorwerp:manifest_sha256": made.release.artefacts[manifest.kind].manifest_sha256,
            **counts,
        },
    )


def _add_report(document: Any, made: Made, whole: Any, engine: Any) -> None:
    activity = document.activity(f"voorwerp:run/report/{made.report}", None, made.at_utc, {"voprov:name": "report"})
    about = {"prov:type": "voprov:DatasetEntity", "voprov:name": f"report {made.report}"}
    report = document.entity(f"voorwerp:report/{made.report}", about | {"voprov:generatedAtTime": made.at_utc})
    code = document.entity(
        f"voorwerp:code/{made.code_sha256}",
        {"prov:type": "prov:Plan", "voprov:name": "code that wrote the report", "voorwerp:sha256": made.code_sha256},
    )
    document.wasGeneratedBy(report, activity, made.at_utc, None, {"prov:role": "report"})
    document.wasAssociatedWith(activity, engine, code, None, {"prov:role": "software"})
    document.used(activity, whole, None, None, {"prov:role": "release"})
    document.wasDerivedFrom(report, whole)


def lineage(made: Made) -> bytes:
    """Write OpenLineage run events, a line of JSON each: of every stage its start and its end."""
    from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
    from openlineage.client.facet_v2 import (
        dataset_version_dataset,
        output_statistics_output_dataset,
        parent_run,
        processing_engine_run,
    )
    from openlineage.client.serde import Serde

    space = "voorwerp"
    parent = parent_run.ParentRunFacet(
        run=parent_run.Run(runId=_run("release", made.release.id)),
        job=parent_run.Job(namespace=space, name="release"),
        producer=PRODUCER,
    )
    lines = []
    for manifest in made.manifests:
        engine = processing_engine_run.ProcessingEngineRunFacet(
            version=manifest.versions["voorwerp"], name="voorwerp", producer=PRODUCER
        )
        run = Run(runId=_run(manifest.kind, manifest.id), facets={"parent": parent, "processing_engine": engine})
        inputs = [InputDataset(namespace=space, name=f"{kind}/{one.id}") for kind, one in manifest.parents.items()]
        if manifest.kind == "plan":
            inputs.append(InputDataset(namespace=space, name=f"catalogue/{made.catalogue}"))
        version = dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=manifest.id, producer=PRODUCER)
        rows = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
            rowCount=_n_rows(manifest),
            size=sum(file.size_bytes for file in manifest.files),
            fileCount=len(manifest.files),
            producer=PRODUCER,
        )
        output = OutputDataset(
            namespace=space,
            name=f"{manifest.kind}/{manifest.id}",
            facets={"version": version},
            outputFacets={"outputStatistics": rows},
        )
        began, ended = _times(manifest)
        for state, at, outputs in ((RunState.START, began, []), (RunState.COMPLETE, ended, [output])):
            event = RunEvent(
                eventType=state,
                eventTime=at,
                run=run,
                job=Job(namespace=space, name=_job(manifest.kind)),
                inputs=inputs,
                outputs=outputs,
                producer=PRODUCER,
            )
            lines.append(Serde.to_json(event))
    return "".join(f"{line}\n" for line in lines).encode()


def _times(manifest: Manifest) -> tuple[str, str]:
    ended = datetime.fromisoformat(manifest.created_utc)
    began = ended - timedelta(seconds=sum(stages_of(manifest).values()))
    return began.isoformat(timespec="seconds"), ended.isoformat(timespec="seconds")


def _job(kind: str) -> str:
    return {"embeddings": "embed", "components": "reduce"}.get(kind, kind)


def _run(kind: str, artefact_id: str) -> str:
    """Name a run: the same artefact, the same name."""
    return str(uuid.uuid5(_RUNS, f"{kind}/{artefact_id}"))


def _n_rows(manifest: Manifest) -> int | None:
    rows = {"plan": "planned", "embeddings": "embedded", "components": "components", "index": "indexed"}
    return manifest.counts.get(rows.get(manifest.kind, ""))
