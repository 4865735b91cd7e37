"""Provenance by two standards: what their own libraries read back is what was made from what."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import output_statistics_output_dataset, parent_run, processing_engine_run
from openlineage.client.serde import Serde
from prov.model import ProvActivity, ProvAgent, ProvDerivation, ProvDocument, ProvEntity, ProvGeneration, ProvUsage

from engine.storage.artefacts import current_release, manifest_of
from engine.storage.provenance import NAMESPACE, VOPROV, Made, lineage, provenance, stages_of
from engine.storage.store import Store
from schemas.report import Encoder
from tests.generated import clustered, positions, write_release

STAGES = ["encoder", "plan", "embeddings", "components", "index"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    output, n = tmp_path_factory.mktemp("made"), 60
    ra_deg, dec_deg = positions(n)
    objects = {"object_id": np.arange(n), "ra_deg": ra_deg, "dec_deg": dec_deg}
    write_release(output, objects, clustered(n, 4))
    store = Store(str(output))
    release = current_release(store)
    manifests = [manifest_of(store, release, kind) for kind in release.artefacts]
    timed = {
        "plan": {"plan": 60.0},
        "embeddings": {"embed": 600.0, "assemble": 30.0, "at_work": 500.0, "unit_sum": 9e9},
    }
    manifests = [one.model_copy(update={"durations_s": timed.get(one.kind, {})}) for one in manifests]
    encoder = Encoder(
        architecture="drawn", weights="drawn.pt", weights_sha256="a" * 64, preset="plain", preset_sha256="b" * 64
    )
    return Made(release, manifests, "catalogue & more.csv", encoder, "4" * 16, "c" * 64, "2026-03-01T00:00:00+00:00")


@pytest.fixture(scope="module")
def document(made: Made) -> ProvDocument:
    return ProvDocument.deserialize(StringIO(provenance(made).decode()), format="json")


def ends(document: ProvDocument, kind: type) -> set[tuple[str, str]]:
    """The two ends of every relation of a kind, by their local names."""
    return {
        tuple(one.localpart for _, one in relation.formal_attributes[:2]) for relation in document.get_records(kind)
    }


def test_prov_json_survives_the_round_trip_through_the_library_of_prov(made: Made, document: ProvDocument) -> None:
    again = ProvDocument.deserialize(StringIO(document.serialize(format="json")), format="json")
    assert again == document
    assert provenance(made) == provenance(made)


def test_the_catalogue_is_what_everything_was_made_from(made: Made, document: ProvDocument) -> None:
    ids = {one.kind: f"{one.kind}/{one.id}" for one in made.manifests}
    plan = next(one for one in made.manifests if one.kind == "plan")
    derived = ends(document, ProvDerivation)
    assert (ids["plan"], f"catalogue/{plan.id}") in derived
    assert (ids["encoder"], f"weights/{'a' * 64}") in derived
    assert (ids["embeddings"], f"preset/{'b' * 64}") in derived
    for child, parents in {
        "embeddings": ("plan", "encoder"),
        "components": ("embeddings",),
        "index": ("components",),
    }.items():
        for parent in parents:
            assert (ids[child], ids[parent]) in derived
            assert (f"run/{ids[child]}", ids[parent]) in ends(document, ProvUsage)
    assert (f"report/{'4' * 16}", f"release/{made.release.id}") in derived


def test_every_artefact_was_made_by_an_activity_with_its_hash_and_its_settings(
    made: Made, document: ProvDocument
) -> None:
    generated, used = ends(document, ProvGeneration), ends(document, ProvUsage)
    for manifest in made.manifests:
        name = f"{manifest.kind}/{manifest.id}"
        assert (name, f"run/{name}") in generated
        assert (f"run/{name}", f"config/{name}") in used
        (entity,) = document.get_record(f"voorwerp:{name}")
        values = {attribute.uri: value for attribute, value in entity.attributes}
        assert values[f"{NAMESPACE}manifest_sha256"] == made.release.artefacts[manifest.kind].manifest_sha256
        assert values[f"{VOPROV}name"] == f"{manifest.kind} {manifest.id}"
        assert f"{VOPROV}generatedAtTime" in values
    names = {record.identifier.localpart for record in document.get_records(ProvEntity)}
    assert f"code/{'c' * 64}" in names


def test_terms_are_those_of_the_ivoa(document: ProvDocument) -> None:
    types = {str(value) for record in document.get_records(ProvEntity) for value in record.get_attribute("prov:type")}
    assert types >= {"voprov:DatasetEntity", "voprov:ConfigFile"}
    assert all(record.get_attribute("voprov:name") for record in document.get_records((ProvActivity, ProvAgent)))


def test_an_activity_took_what_follows_on_a_clock_and_no_sums_over_workers(made: Made, document: ProvDocument) -> None:
    embeddings = next(one for one in made.manifests if one.kind == "embeddings")
    assert stages_of(embeddings) == {"embed": 600.0, "assemble": 30.0}
    (run,) = document.get_record(f"voorwerp:run/embeddings/{embeddings.id}")
    assert (run.get_endTime() - run.get_startTime()).total_seconds() == 630


def read_event(line: str) -> RunEvent:
    """Rebuild an event by the classes that OpenLineage makes of its schemas, which refuse keys that are not theirs."""
    told = json.loads(line)
    assert told.pop("schemaURL") == RunEvent._get_schema()
    run, job = told.pop("run"), told.pop("job")

    def facet(kind: type, content: dict[str, Any]) -> Any:
        content = dict(content)
        assert content.pop("_schemaURL") == kind._get_schema()  # type: ignore[attr-defined]
        return kind(producer=content.pop("_producer"), **content)

    facets = run.pop("facets")
    parent = facets["parent"]
    inner = {"run": parent_run.Run(**parent["run"]), "job": parent_run.Job(**parent["job"])}
    rebuilt = {
        "parent": facet(parent_run.ParentRunFacet, parent | inner),
        "processing_engine": facet(processing_engine_run.ProcessingEngineRunFacet, facets["processing_engine"]),
    }
    outputs = []
    for one in told.pop("outputs"):
        statistics = one.pop("outputFacets")["outputStatistics"]
        one.pop("facets")
        kind = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet
        outputs.append(OutputDataset(**one, outputFacets={"outputStatistics": facet(kind, statistics)}))
    return RunEvent(
        eventType=RunState(told.pop("eventType")),
        run=Run(**run, facets=rebuilt),
        job=Job(**job),
        inputs=[InputDataset(**one) for one in told.pop("inputs")],
        outputs=outputs,
        **told,
    )


def test_every_stage_starts_and_completes_and_its_inputs_are_outputs_before(made: Made) -> None:
    events = [read_event(line) for line in lineage(made).decode().splitlines()]
    assert [event.eventType for event in events] == [RunState.START, RunState.COMPLETE] * len(STAGES)
    assert [event.job.name for event in events[::2]] == ["encoder", "plan", "embed", "reduce", "index"]
    assert [event.run.runId for event in events[::2]] == [event.run.runId for event in events[1::2]]
    assert len({event.run.runId for event in events}) == len(STAGES)
    known = {f"catalogue/{made.catalogue}"}
    for start, complete in zip(events[::2], events[1::2], strict=True):
        assert start.eventTime <= complete.eventTime
        assert not start.outputs
        assert {one.name for one in complete.inputs} <= known
        known |= {one.name for one in complete.outputs}
    statistics = events[5].outputs[0].outputFacets["outputStatistics"]
    assert statistics.rowCount == 60
    assert Serde.to_dict(events[5])["run"]["facets"]["parent"]["job"]["name"] == "release"


def test_neither_says_where_anything_lies(made: Made, tmp_path: Path) -> None:
    told = provenance(made) + lineage(made)
    assert str(tmp_path.parent).encode() not in told
    assert b"/somewhere" not in told
    assert b"catalogue & more.csv" in told
