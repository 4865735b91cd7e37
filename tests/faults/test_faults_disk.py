"""A disk that is full at any write of a unit: the user is told, nothing counts, and with room again nothing is lost."""

import os
from itertools import count
from pathlib import Path

import pyarrow as pa
import pytest

from engine.cluster.loading import threaded
from engine.cluster.protocol import read_commits
from engine.cluster.task import EmbedTask
from engine.cluster.unit import Embedded, embed_objects, embed_unit
from engine.storage.store import Store
from schemas import paths
from schemas.errors import StoreError
from schemas.manifest import Commit
from tests.disks import disk
from tests.faults.test_faults_protocol import UNITS, encoder, make_task, write_plan

SIZE = 512 << 10
PAGE = 4096
"""What a disk in memory gives away at a time."""


def embed(store: Store) -> Commit:
    """Embed the first unit, of which one object is bad."""

    def one_by_one(objects: pa.Table, task: EmbedTask) -> Embedded:
        with threaded(task) as loader:
            return embed_objects(objects, task, encoder, loader)

    task = make_task(store.uri())
    with threaded(task) as loader:
        return embed_unit(UNITS[0], task, encoder, loader, one_by_one)


def fill(folder: Path, free_pages: int) -> Path:
    """Take up all of a disk but some pages."""
    filler = folder / "filler"
    filler.touch()
    filler.write_bytes(bytes((os.statvfs(folder).f_bfree - free_pages) * PAGE))
    return filler


@pytest.mark.fault(6, "a disk that is full at each write of a unit in turn")
def test_a_unit_on_a_full_disk_commits_nothing_and_goes_through_when_there_is_room(tmp_path: Path) -> None:
    refused = 0
    with disk(tmp_path / "disk", SIZE) as folder:
        store = Store(str(folder))
        write_plan(store)
        expected = embed(store)
        store.delete_folder(paths.WORK)
        for free_pages in count():
            filler = fill(folder, free_pages)
            try:
                embed(store)
            except StoreError as error:
                assert "no space left on" in str(error)  # noqa: PT017 - it need not be raised.
                assert list(read_commits(store, "e")) == []
                refused += 1
            else:
                break
            finally:
                filler.unlink()
            found = embed(store)
            assert [file.sha256 for file in found.files] == [file.sha256 for file in expected.files]
            assert list(read_commits(store, "e")) == [found]
            store.delete_folder(paths.WORK)
    assert refused >= 3  # At the mark of the attempt, at its files, and at the commit.
