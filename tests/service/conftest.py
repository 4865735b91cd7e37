"""A release with cutouts, some of them hostile, campaigns, and a service over both."""

import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pytest
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from engine.cluster.opened import OpenRelease, open_release
from engine.cluster.serving import ReleaseSearcher
from engine.cluster.serving_campaigns import ServedCampaigns
from engine.service.app import create_app
from engine.storage.campaigns import CampaignStore, open_campaigns
from engine.storage.store import Store
from engine.storage.tokens import TokenStore, open_tokens
from jobs import campaign as campaign_job
from jobs import plan
from schemas.campaign import CampaignConfig
from schemas.config import CatalogueConfig, PlanConfig, RayConfig
from schemas.service import ServeConfig, TokenScope
from tests.conftest import galaxy_pixels
from tests.generated import clustered, positions, write_release

N = 120
FIRST_ID = 587729386071654577
"""Ids are as long as those of SDSS: no reader of JSON may round them."""
HTML, CUT, BOMB, MISSING = 1, 2, 3, 4
"""Rows whose cutouts are no pictures."""
HOSTILE_TEXT = 'a<b>&"\x0b]]>'


class Served(NamedTuple):
    """A release to be served."""

    output: Path
    ids: np.ndarray
    ra_deg: np.ndarray
    dec_deg: np.ndarray
    vectors: np.ndarray
    release: OpenRelease

    def id(self, row: int) -> str:
        return str(self.ids[row])


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A release of 120 objects with ids that are long; not to be changed."""
    folder = tmp_path_factory.mktemp("served")
    for number in range(N):
        Image.fromarray(galaxy_pixels(number, 48)).save(folder / f"{number}.png")
    (folder / f"{HTML}.png").write_text("<script>alert(1)</script>")
    whole = (folder / f"{CUT}.png").read_bytes()
    (folder / f"{CUT}.png").write_bytes(whole[: len(whole) // 2])
    (folder / f"{BOMB}.png").write_bytes(bomb(30_000))
    (folder / f"{MISSING}.png").unlink()
    ids = np.random.default_rng(1).permutation(N) + FIRST_ID
    ra_deg, dec_deg = positions(N, 2)
    ra_deg[10:14], dec_deg[10:14] = [359.9999, 0.0001, 0.0003, 0.01], [10.0, 10.0, 10.0, 10.0]
    vectors = clustered(N, 4, 5)
    vectors[7] = vectors[8]
    objects = {
        "object_id": pa.array(ids),
        "ra_deg": ra_deg,
        "dec_deg": dec_deg,
        "cutout": [f"{number}.png" for number in range(N)],
        "mag_r": np.where(np.arange(N) == 9, np.nan, np.arange(N) / 10),
        "note": [HOSTILE_TEXT if number == 9 else None for number in range(N)],
        "seen": pa.array(np.arange(N), pa.timestamp("s")),
    }
    names = ["object_id", "ra_deg", "dec_deg", "cutout"]
    pacsv.write_csv(pa.table({name: objects[name] for name in names}), folder / "catalogue.csv")
    output = folder / "release"
    settings = PlanConfig(rows_per_partition=30, rows_per_unit=10)
    planned = plan.run(CatalogueConfig(path=str(folder / "catalogue.csv")), settings, Store(str(output)))
    write_release(output, objects, vectors, plan=planned)
    return Served(output, ids, ra_deg, dec_deg, vectors, open_release(Store(str(output))))


def bomb(side: int) -> bytes:
    """A PNG of few bytes that says it has side x side pixels."""

    def piece(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1 << 20))
    return b"\x89PNG\r\n\x1a\n" + piece(b"IHDR", header) + piece(b"IDAT", pixels) + piece(b"IEND", b"")


@pytest.fixture(scope="session")
def empty_database(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the campaign `odd` on the release, another one elsewhere, and nothing else; not to be changed."""
    path = tmp_path_factory.mktemp("database") / "campaigns.sqlite"
    with closing(open_campaigns(str(path))) as opened:
        settings = CampaignConfig(space="search", batch=6)
        odd = campaign_job.create(opened, "odd", str(served.output), settings, RayConfig())
        opened.create(odd.model_copy(update={"name": "elsewhere", "release": "/another/release"}))
    return path


@pytest.fixture(scope="session")
def reader(served: Served, empty_database: Path) -> Iterator[TestClient]:
    """A client of a service that everyone may read, for tests that only read."""
    config = ServeConfig(release=str(served.output), anonymous_read=True, rate_per_minute=1_000_000)
    with closing(open_campaigns(str(empty_database))) as store, closing(open_tokens(str(empty_database))) as tokens:
        campaigns = ServedCampaigns(store, campaign_job.place_of(str(served.output)))
        yield TestClient(create_app(ReleaseSearcher(served.release), campaigns, tokens, config))


@pytest.fixture
def database(empty_database: Path, tmp_path: Path) -> str:
    """A database of one's own."""
    return str(shutil.copy(empty_database, tmp_path / "campaigns.sqlite"))


@pytest.fixture
def tokens(database: str) -> Iterator[TokenStore]:
    with closing(open_tokens(database)) as opened:
        yield opened


@pytest.fixture
def store(database: str) -> Iterator[CampaignStore]:
    with closing(open_campaigns(database)) as opened:
        yield opened


@pytest.fixture
def make_app(served: Served, store: CampaignStore, tokens: TokenStore) -> Callable[..., FastAPI]:
    """Make an application with settings of one's own."""

    def make(
        clock: Callable[[], float] | None = None,
        searcher: object | None = None,
        release_map: object | None = None,
        **settings: object,
    ) -> FastAPI:
        config = ServeConfig.model_validate({"release": str(served.output), **settings})
        campaigns = ServedCampaigns(store, campaign_job.place_of(str(served.output)))
        asked = searcher or ReleaseSearcher(served.release)
        others = {"release_map": release_map, **({"clock": clock} if clock else {})}
        return create_app(asked, campaigns, tokens, config, **others)  # type: ignore[arg-type]

    return make


@pytest.fixture
def token_of(tokens: TokenStore) -> Callable[..., str]:
    """Create a token; its name is its scopes' when none is given."""

    def create(*scopes: TokenScope, name: str | None = None, rater: str | None = "ann") -> str:
        return tokens.create(name or "-".join(scopes), scopes, rater)

    return create


@pytest.fixture
def client(make_app: Callable[..., FastAPI], token_of: Callable[..., str]) -> TestClient:
    """A client of a service, who may read and rate."""
    return TestClient(make_app(), headers=bearer(token_of("read", "rate")))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
