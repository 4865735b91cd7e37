"""The service over a Ray cluster: Ray Serve's wiring, and nothing else.

    HTTP ---> Ingress ---> Shards-0, Shards-1 ...    find and search; each group in as many replicas as there are
                      ---> Campaigns                 one, which holds spaces in memory, or in that of actors of its own

Every process opens the release by its id, so that none answers from another one. A group that is not there makes
answers that need it fail, and never shorter.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve import Application
from ray.serve.config import HTTPOptions
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.cluster.answer import Question
from engine.cluster.bulk import Asked
from engine.cluster.filters import Filter
from engine.cluster.groups import Groups, ShardGroup
from engine.cluster.metrics import collect
from engine.cluster.opened import OpenRelease, open_release
from engine.cluster.ray_metrics import to_ray
from engine.cluster.session import connect
from engine.storage.store import Store
from schemas.config import RayConfig
from schemas.errors import BusyError, VoorwerpError

ANSWER_WITHIN_S = 30.0
"""After which a part of the service counts as not being there."""
AT_ONCE = 32
"""Calls that one replica works on; those that wait meanwhile are searched together."""
_ACTOR = {"num_cpus": 0.1}
"""As Ray counts: replicas share the cores, and more of them than cores is no mistake."""
Handle = DeploymentHandle[Any]
MakeApp = Callable[[OpenRelease, Groups, Any], ASGIApp]
"""Of the release, its groups and its campaigns, the application. It is called in the process that answers."""


class _Shards:
    """A group of shards, opened and checked before it answers."""

    def __init__(self, output: str, release_id: str, numbers: Sequence[int], n_threads: int) -> None:
        collect(to_ray)
        self._group = ShardGroup(open_release(Store(output), release_id), numbers, n_threads)
        for number in numbers:
            self._group.release.shards[number].open()

    async def find(self, ids: pa.Array) -> pa.Table:
        """Look up ids, as `engine.cluster.groups.Group.find`."""
        return await asyncio.to_thread(self._group.find, ids)

    async def search(self, asked: Asked, how: Question, passing: Filter) -> pa.Table:
        """Answer queries, as `engine.cluster.groups.Group.search`."""
        return await asyncio.to_thread(self._group.search, asked, how, passing)


class _Campaigns:
    """The campaigns, behind one process: what they learn is learned once."""

    def __init__(self, make: Callable[[], Any]) -> None:
        collect(to_ray)
        self._campaigns = make()

    async def call(self, method: str, arguments: Sequence[Any]) -> Any:
        """Call a method."""
        return await asyncio.to_thread(getattr(self._campaigns, method), *arguments)


class _Application:
    """Hands requests to the application of the replica that runs it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": f"{message['type']}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        await serve.get_replica_context().servable_object.application(scope, receive, send)  # type: ignore[attr-defined]


@serve.ingress(_Application())
class _Ingress:
    """Answers HTTP."""

    def __init__(
        self,
        make_app: MakeApp,
        output: str,
        release_id: str,
        shards: Sequence[Handle],
        campaigns: Handle,
    ) -> None:
        release = open_release(Store(output), release_id)
        groups = Groups([RemoteGroup(handle) for handle in shards])
        self.application = make_app(release, groups, RemoteCampaigns(campaigns))


Shards: Any = serve.deployment(_Shards, name="Shards", max_ongoing_requests=AT_ONCE, ray_actor_options=_ACTOR)
Campaigns: Any = serve.deployment(_Campaigns, name="Campaigns", ray_actor_options=_ACTOR)
Ingress: Any = serve.deployment(_Ingress, name="Ingress", max_ongoing_requests=1_000, ray_actor_options=_ACTOR)


class RemoteGroup:
    """A group of shards in other processes, as `engine.cluster.groups.Group`."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def find(self, ids: pa.Array) -> pa.Table:
        """Look up ids; errors as of `result_of`."""
        return result_of(self._handle.find.remote(ids))

    def search(self, asked: Asked, how: Question, passing: Filter) -> pa.Table:
        """Answer queries; errors as of `result_of`."""
        return result_of(self._handle.search.remote(asked, how, passing))


class RemoteCampaigns:
    """The campaigns in another process: any method of theirs, by its name."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_"):
            raise AttributeError(method)
        return lambda *arguments: result_of(self._handle.call.remote(method, arguments))


def result_of(response: Any) -> Any:
    """Wait for what another process answers.

    Raises
    ------
    VoorwerpError
        As it was raised there.
    BusyError
        The process is lost, has too much to do, or does not answer in time.
    """
    try:
        return response.result(timeout_s=ANSWER_WITHIN_S)
    except RayTaskError as error:
        if isinstance(error.cause, VoorwerpError):
            raise error.cause from None
        raise
    except (BackPressureError, RayError, RayServeException, TimeoutError) as error:
        raise BusyError("a part of the release cannot answer now; try again") from error


def run(application: Application, name: str, host: str, port: int, ray: RayConfig, until: Callable[[], None]) -> None:
    """Serve an application over a cluster until a function returns; then end what was begun.

    Raises
    ------
    StoreError
        There is no such cluster.
    """
    connect(ray)
    serve.start(proxy_location="EveryNode", http_options=HTTPOptions(host=host, port=port))
    try:
        serve.run(application, name=name, route_prefix="/")
        until()
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]


def shares(release: OpenRelease, n_groups: int) -> list[list[int]]:
    """Share the shards that hold objects among at most n groups, about as many objects in each."""
    groups: list[list[int]] = [[] for _ in range(min(n_groups, len(release.shards)))]
    sizes = [0] * len(groups)
    for number in sorted(range(len(release.shards)), key=lambda number: -release.shards[number].n_rows):
        if n_rows := release.shards[number].n_rows:
            least = sizes.index(min(sizes))
            groups[least].append(number)
            sizes[least] += n_rows
    return [sorted(group) for group in groups if group]


def application(
    release: OpenRelease,
    output: str,
    n_groups: int,
    n_replicas: int,
    n_threads: int,
    make_app: MakeApp,
    make_campaigns: Callable[[], Any],
) -> Application:
    """Bind the deployments of a service.

    Parameters
    ----------
    release : OpenRelease
        That is to be served.
    output : str
        Where every process finds it.
    n_groups : int
        Of shards, each in processes of its own.
    n_replicas : int
        Of each group, and of the ingress.
    n_threads : int
        That share the queries of a batch, in each replica of a group.
    make_app, make_campaigns : callable
        Importable where the replicas run, or bound to settings that are.
    """
    groups = [
        Shards.options(name=f"Shards-{number}", num_replicas=n_replicas).bind(output, release.id, share, n_threads)
        for number, share in enumerate(shares(release, n_groups))
    ]
    campaigns = Campaigns.bind(make_campaigns)
    return Ingress.options(num_replicas=n_replicas).bind(make_app, output, release.id, groups, campaigns)
