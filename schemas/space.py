"""The named spaces that embeddings are reduced to. Spaces never meet: each has an identity of its own."""

from typing import Literal, NamedTuple

SpaceName = Literal["search", "map", "anomaly"]


class Space(NamedTuple):
    """How many components, and whether each is divided by its standard deviation."""

    n_components: int
    unit_variance: bool


SPACES: dict[SpaceName, Space] = {
    "search": Space(10, unit_variance=False),
    "map": Space(15, unit_variance=False),
    "anomaly": Space(40, unit_variance=True),
}
"""As in Walmsley et al. 2022, for neighbours, the map, and finding anomalies, where the paper's code scales components
to unit variance before the Gaussian process sees them."""
