"""The components that a ranking sees: found in a release, or made from its embeddings where they are not there yet."""

from typing import NamedTuple

import pyarrow as pa

from engine.storage.artefacts import components_in, current_release, manifest_of, parent_of, partitions_of
from engine.storage.lease import lease
from engine.storage.parquet import read_schema
from engine.storage.store import Store
from jobs import reduce
from schemas import paths
from schemas.config import RayConfig, ReduceConfig
from schemas.manifest import Manifest, Release
from schemas.partition import PartitionFile
from schemas.space import SpaceName
from schemas.tables import OBJECT_ID


class SpaceOf(NamedTuple):
    """Components of a release in one space."""

    uri: str
    """Of the output."""
    release: Release
    embeddings: Manifest
    components: Manifest
    folder: Store
    """Of the components."""
    partitions: list[PartitionFile]

    @property
    def n_objects(self) -> int:
        """Objects that the space holds."""
        return self.components.counts["components"]

    @property
    def id_type(self) -> pa.DataType:
        """Type of its ids."""
        return read_schema(self.folder, self.partitions[0].file.path).field(OBJECT_ID).type


def space_of(uri: str, space: SpaceName, ray: RayConfig) -> SpaceOf:
    """Find the components of a release in a space; make them where they are not there: that reads every embedding once.

    Raises
    ------
    InputNotFoundError
        There is no finished release.
    DataError
        There are too few objects for the space's number of components.
    BusyError
        The components are to be made, and another run works on the output.
    """
    store = Store(uri)
    release = current_release(store)
    components = manifest_of(store, release, "components")
    embeddings = parent_of(store, components, "embeddings")
    found = components_in(store, components, space)
    if found is None:
        config = ReduceConfig(method=components.identity["method"], spaces=(space,))
        with lease(store):
            found = reduce.make(embeddings, config, space, ray, store, components.identity.get("basis"))
    components = found
    folder = store.below(paths.artefact("components", components.id))
    partitions = partitions_of(components)
    return SpaceOf(store.uri(), release, embeddings, components, folder, partitions)
