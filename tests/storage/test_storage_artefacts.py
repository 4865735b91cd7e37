"""Artefacts: one output, one run; nothing without a manifest is readable, and nothing edited is believed."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from engine.storage import artefacts
from engine.storage.store import Store
from schemas import paths
from schemas.errors import InputNotFoundError, IntegrityError, OutputError
from schemas.manifest import Kind, Manifest, Parent, identity_id


def manifest(kind: Kind, identity: dict | None = None, parents: dict[str, Parent] | None = None) -> Manifest:
    identity = {"made": "for a test"} if identity is None else identity
    return Manifest(
        kind=kind,
        id=identity_id(kind, identity),
        identity=identity,
        parents=parents or {},
        counts={f"{kind}_rows": 3},
        detail={"catalogue": "c.csv", "source": "w.pt", "preset": "walmsley2022", "preset_sha256": "00"},
        files=[],
        versions=artefacts.library_versions(),
        durations_s={},
        created_utc=artefacts.utc_now(),
    )


def finished_chain(store: Store, name: str = "a") -> dict[str, Manifest]:
    """Five artefacts, each made from those before it."""
    chain: dict[str, Manifest] = {}
    links: dict[Kind, tuple[Kind, ...]] = {
        "encoder": (),
        "plan": (),
        "embeddings": ("plan", "encoder"),
        "components": ("embeddings",),
        "index": ("components",),
    }
    for kind, parents in links.items():
        references = {parent: artefacts.as_parent(chain[parent]) for parent in parents}
        identity = {"name": name, "parents": [reference.id for reference in references.values()]}
        identity |= {"architecture": "b0", "weights_sha256": "00"}
        chain[kind] = artefacts.finish(store, manifest(kind, identity, references))
    return chain


def edit(store: Store, path: str, old: bytes, new: bytes) -> None:
    data = store.read(path)
    assert old in data
    store.write(path, data.replace(old, new))


def test_a_claim_names_the_artefact_and_holds_when_repeated(store: Store) -> None:
    identity = {"catalogue": "abc", "rows_per_unit": 32}
    first = artefacts.claim(store, "plan", identity)
    assert first == artefacts.claim(store, "plan", dict(reversed(identity.items())))
    assert first == artefacts.claimed(store, "plan") == identity_id("plan", identity)


def test_another_identity_is_refused_with_both_names_and_what_differs(store: Store) -> None:
    held, asked = {"encoder": "abc", "views": 1, "preset": {"crop": 224}}, {"encoder": "abc", "views": 4, "new": True}
    artefacts.claim(store, "embeddings", held)
    with pytest.raises(OutputError) as caught:
        artefacts.claim(store, "embeddings", asked)
    message = str(caught.value)
    assert identity_id("embeddings", held) in message
    assert identity_id("embeddings", asked) in message
    assert "views: the output holds 1, this job asks for 4" in message
    assert "preset: the output holds {'crop': 224}, this job asks for None" in message
    assert "new: the output holds None, this job asks for True" in message
    assert "encoder:" not in message
    assert artefacts.claimed(store, "embeddings") == identity_id("embeddings", held)


@pytest.mark.parametrize("value", [(0, 1, 2), {"nested": (1.5, None)}])
def test_an_identity_that_json_writes_differently_is_still_its_own(local_store: Store, value: object) -> None:
    first = artefacts.claim(local_store, "plan", {"value": value})
    assert artefacts.claim(local_store, "plan", {"value": value}) == first


@pytest.mark.fault(30, "two jobs at once")
def test_of_two_jobs_that_claim_at_once_one_is_refused(store: Store) -> None:
    def claim(number: int) -> bool:
        try:
            artefacts.claim(store, "plan", {"job": number})
        except OutputError:
            return False
        return True

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(claim, range(6))).count(True) == 1


def test_an_output_without_a_claim_says_which_stage_is_missing(store: Store) -> None:
    with pytest.raises(InputNotFoundError, match="holds no plan yet"):
        artefacts.claimed(store, "plan")


@pytest.mark.parametrize("content", [b"", b'{"a":', b"[1]", b"\xff\xfe", b'{"format": 2}'])
def test_a_claim_that_was_cut_or_overwritten_is_refused(local_store: Store, content: bytes) -> None:
    local_store.write(paths.claim("plan"), content)
    with pytest.raises(IntegrityError, match=r"claims/plan\.json"):
        artefacts.claimed(local_store, "plan")
    with pytest.raises(IntegrityError, match=r"claims/plan\.json"):
        artefacts.claim(local_store, "plan", {"a": 1})


@pytest.mark.parametrize(
    ("content", "found"),
    [(b'{"rows_per_unit": 8}', 1), (b'{"format": 1, "identity": {}}', 1), (b'{"format": 3, "holds": {}}', 3)],
)
def test_a_claim_of_another_format_is_refused_with_both_formats_and_what_to_do(
    local_store: Store, content: bytes, found: int
) -> None:
    local_store.write(paths.claim("plan"), content)
    expected = rf"claims/plan\.json: expected format 2, found format {found}: .* Choose a new output"
    with pytest.raises(IntegrityError, match=expected):
        artefacts.claimed(local_store, "plan")
    with pytest.raises(IntegrityError, match=expected):
        artefacts.claim(local_store, "plan", {"rows_per_unit": 8})


def test_an_artefact_without_a_manifest_cannot_be_read(store: Store) -> None:
    store.write("plan/abc/units.parquet", b"half a plan")
    assert artefacts.find(store, "plan", "abc") is None
    with pytest.raises(InputNotFoundError, match="no finished plan"):
        artefacts.read_manifest(store, "plan", "abc")


def test_a_finished_artefact_is_found_as_it_was_written(store: Store) -> None:
    written = manifest("plan")
    assert artefacts.finish(store, written) == written
    assert artefacts.find(store, "plan", written.id) == written


def test_an_artefact_is_finished_once_and_the_later_process_gets_the_first_manifest(store: Store) -> None:
    first = manifest("plan")
    later = first.model_copy(update={"durations_s": {"plan": 99.0}})
    artefacts.finish(store, first)
    assert artefacts.finish(store, later) == first
    assert artefacts.read_manifest(store, "plan", first.id) == first


@pytest.mark.fault(31, "a manifest that was edited")
@pytest.mark.parametrize(
    ("old", "new"),
    [(b"for a test", b"for fraud"), (b'"kind": "plan"', b'"kind": "index"'), (b'"format": 2', b'"format": 3')],
)
def test_an_edited_manifest_is_refused(local_store: Store, old: bytes, new: bytes) -> None:
    written = artefacts.finish(local_store, manifest("plan"))
    edit(local_store, paths.manifest("plan", written.id), old, new)
    with pytest.raises(IntegrityError, match=r"manifest\.json"):
        artefacts.read_manifest(local_store, "plan", written.id)


def test_a_manifest_under_another_id_is_refused(local_store: Store) -> None:
    written = artefacts.finish(local_store, manifest("plan"))
    local_store.write(paths.manifest("plan", "0" * 16), local_store.read(paths.manifest("plan", written.id)))
    with pytest.raises(IntegrityError, match="found an edited one"):
        artefacts.read_manifest(local_store, "plan", "0" * 16)


@pytest.mark.parametrize("keep", [0, 10, -3])
def test_a_cut_manifest_is_refused(local_store: Store, keep: int) -> None:
    written = artefacts.finish(local_store, manifest("plan"))
    path = paths.manifest("plan", written.id)
    local_store.write(path, local_store.read(path)[:keep])
    with pytest.raises(IntegrityError, match=r"manifest\.json: not a valid Manifest record"):
        artefacts.find(local_store, "plan", written.id)


@pytest.mark.fault(31, "a parent that was made again")
def test_a_parent_that_was_made_again_is_refused(local_store: Store) -> None:
    chain = finished_chain(local_store)
    assert artefacts.parent_of(local_store, chain["index"], "components") == chain["components"]
    edit(
        local_store,
        paths.manifest("components", chain["components"].id),
        b'"components_rows": 3',
        b'"components_rows": 4',
    )
    with pytest.raises(IntegrityError, match=f"index {chain['index'].id} was made from another"):
        artefacts.parent_of(local_store, chain["index"], "components")


def test_nothing_is_published_over_a_broken_chain(local_store: Store) -> None:
    chain = finished_chain(local_store)
    edit(local_store, paths.manifest("plan", chain["plan"].id), b'"plan_rows": 3', b'"plan_rows": 4')
    with pytest.raises(IntegrityError):
        artefacts.publish(local_store, chain["index"])
    assert not local_store.exists(paths.CURRENT)


def test_a_published_release_is_current_with_its_whole_chain(store: Store) -> None:
    with pytest.raises(InputNotFoundError, match="no finished release here"):
        artefacts.current_release(store)
    chain = finished_chain(store)
    release = artefacts.publish(store, chain["index"])
    assert artefacts.current_release(store) == release
    assert release.artefacts.keys() == chain.keys()
    assert release.counts == {f"{kind}_rows": 3 for kind in chain}
    assert {kind: artefacts.current_manifest(store, kind) for kind in chain} == chain


def test_publishing_again_changes_nothing_and_publishing_another_moves_the_pointer(store: Store) -> None:
    first = artefacts.publish(store, finished_chain(store)["index"])
    assert artefacts.publish(store, finished_chain(store)["index"]) == first
    second = artefacts.publish(store, finished_chain(store, "b")["index"])
    assert artefacts.current_release(store) == second
    assert second.id != first.id
    assert store.exists(paths.release(first.id))


@pytest.mark.parametrize("keep", [0, 5, -3])
def test_a_cut_pointer_is_refused(local_store: Store, keep: int) -> None:
    artefacts.publish(local_store, finished_chain(local_store)["index"])
    local_store.write(paths.CURRENT, local_store.read(paths.CURRENT)[:keep])
    with pytest.raises(IntegrityError, match=r"current\.json: not a valid Current record"):
        artefacts.current_release(local_store)


@pytest.mark.fault(31, "a release record that was edited")
def test_a_release_record_that_was_edited_is_refused(local_store: Store) -> None:
    release = artefacts.publish(local_store, finished_chain(local_store)["index"])
    edit(local_store, paths.release(release.id), b'"plan_rows": 3', b'"plan_rows": 4')
    with pytest.raises(IntegrityError, match="expected SHA-256"):
        artefacts.current_release(local_store)


def test_a_manifest_that_was_edited_after_publication_is_refused(local_store: Store) -> None:
    chain = finished_chain(local_store)
    artefacts.publish(local_store, chain["index"])
    edit(local_store, paths.manifest("index", chain["index"].id), b'"index_rows": 3', b'"index_rows": 4')
    with pytest.raises(IntegrityError, match="changed after publication"):
        artefacts.current_manifest(local_store, "index")


def test_versions_name_every_library_that_can_change_a_result() -> None:
    versions = artefacts.library_versions()
    assert versions.keys() == set(artefacts.LIBRARIES)
    assert all(versions.values())


def test_records_are_readable_json_with_a_line_at_their_end() -> None:
    data = artefacts.encode(manifest("plan"))
    assert data.endswith(b"}\n")
    assert json.loads(data)["kind"] == "plan"
