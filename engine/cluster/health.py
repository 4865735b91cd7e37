"""What every node of a cluster says of itself: whether it works, and by the same versions as this process."""

import platform
from typing import NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from engine.cluster.session import Resources, causes, connect
from engine.storage.artefacts import library_versions
from schemas.config import RayConfig
from schemas.errors import StoreError

ANSWER_WITHIN_S = 60.0


class Node(NamedTuple):
    """One node."""

    address: str
    differences: str
    """Versions that are not this process's; empty for none."""


class Health(NamedTuple):
    """A cluster."""

    resources: Resources
    nodes: list[Node]


def ask_nodes(config: RayConfig) -> Health:
    """Reach a cluster, or start one here, and run a task on each node; end what was started.

    Raises
    ------
    StoreError
        There is no such cluster, it cannot be started, or a node does not answer.
    """
    was_there = ray.is_initialized()
    resources = connect(config)
    try:
        alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        asked = {
            _versions.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(): node
            for node in alive
        }
        done, late = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_WITHIN_S)
        if late:
            addresses = ", ".join(asked[one]["NodeManagerAddress"] for one in late)
            raise StoreError(f"ray: no answer within {ANSWER_WITHIN_S:g} s from {addresses}")
        with causes():
            return Health(
                resources, [Node(asked[one]["NodeManagerAddress"], _differences(ray.get(one))) for one in done]
            )
    finally:
        if not was_there:
            ray.shutdown()


def own_versions() -> dict[str, str]:
    """Versions that have to be the same everywhere."""
    return {"python": platform.python_version(), **library_versions()}


@ray.remote(num_cpus=0, max_retries=0)
def _versions() -> dict[str, str]:
    return own_versions()


def _differences(theirs: dict[str, str]) -> str:
    return ", ".join(
        f"{name} {theirs.get(name)}, not {here}" for name, here in own_versions().items() if theirs.get(name) != here
    )
