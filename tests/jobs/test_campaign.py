"""Campaigns and rankings, as a person at a terminal has them: on a small release, ratings to a ranked catalogue."""

import io
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import lsdb
import numpy as np
import pandas as pd
import pytest
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.cluster import campaign as campaigning
from engine.cluster.space import open_space
from engine.compute.gp import Kernel, condition, mean_and_sd
from engine.storage.campaigns import CampaignStore, open_campaigns
from engine.storage.hats_catalogue import read_columns
from engine.storage.store import Store
from jobs import campaign as campaign_job
from jobs.cli_options import overrides
from jobs.space import space_of
from schemas.campaign import Campaign, CampaignConfig, RankingRecord
from schemas.config import RayConfig
from schemas.errors import ConfigError, DataError, InputNotFoundError, OutputError, VoorwerpError
from tests.jobs.conftest import Generated, command

CONFIG = {"space": "search", "batch": 6}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CampaignStore:
    """Campaigns in the folder where the test runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return open_campaigns(campaign_job.DATABASE)


@pytest.fixture
def begin(store: CampaignStore, generated: Generated) -> Callable[..., Campaign]:
    """Create a campaign on the generated release."""

    def create(name: str = "odd", **config: object) -> Campaign:
        settings = CampaignConfig.model_validate({**CONFIG, **config})
        return campaign_job.create(store, name, str(generated.output), settings, RayConfig())

    return create


def space_for(campaign: Campaign):  # type: ignore[no-untyped-def]
    return campaigning.open_campaign_space(campaign, 2, lambda n: None)


def asked(store: CampaignStore, campaign: Campaign, rater: str = "ann", n: int | None = None) -> list[str]:
    batch = campaigning.next_batch(store, campaign, rater, space_for(campaign), n)
    return [one.object_id for one in batch.asked]


def test_a_campaign_from_the_terminal_asks_records_takes_back_and_exports(
    store: CampaignStore, generated: Generated
) -> None:
    command("campaign", "create", "odd", generated.output, "--batch", "4", "-s", "space=search")
    campaign = store.campaign("odd")
    first = command("campaign", "next", "odd", "--rater", "ann")
    ids = asked(store, campaign)
    assert all(object_id in first for object_id in ids)
    command("campaign", "rate", "odd", "--rater", "ann", "--scores", "50-3")
    assert asked(store, campaign) == [ids[2]]
    command("campaign", "undo", "odd", "--rater", "ann")
    command("campaign", "rate", "odd", "--rater", "ann", f"{ids[3]}=4")
    command("campaign", "export", "odd", "-o", "ratings.csv")
    exported = pd.read_csv("ratings.csv", dtype={"object_id": str})
    assert dict(zip(exported["object_id"], exported["rating"], strict=True)) == {ids[0]: 5, ids[1]: 0, ids[3]: 4}
    command("campaign", "export", "odd", "-o", "labels.csv", "--astronomaly", "--rater", "ann")
    command("campaign", "create", "again", generated.output, "-s", "space=search")
    for _ in range(2):
        command("campaign", "import", "again", "labels.csv", "--rater", "bob")
    again = campaigning.ratings_table(store, store.campaign("again")).to_pydict()
    assert again["rater"] == ["bob"] * 3
    assert sorted(again["rating"]) == [0, 4, 5]
    command("campaign", "next", "odd", "--rater", "ann")
    shown = command("campaign", "status", "odd", "--plots", "plots")
    assert "ann" in shown
    assert command("campaign", "status").split() == ["again", "odd"]
    assert {path.name for path in Path("plots").iterdir()} == {"calibration-ann.png"}
    command("campaign", "rate", "odd", "--rater", "ann", "--scores", "1")
    command("campaign", "next", "odd", "--rater", "ann")
    command("campaign", "status", "odd", "--plots", "plots")
    assert Image.open("plots/history-ann.png").size > (100, 100)


def test_rated_objects_and_those_of_other_raters_are_never_asked_about(store: CampaignStore, begin) -> None:  # type: ignore[no-untyped-def]
    campaign = begin(batch=50)
    seen: list[str] = []
    for rater in ("ann", "bob", "ann", "cas"):
        ids = asked(store, campaign, rater)
        assert asked(store, campaign, rater) == ids
        seen += ids
        if rater != "bob":
            campaigning.rate(store, campaign, rater, [(object_id, n % 6) for n, object_id in enumerate(ids)])
    assert len(seen) == len(set(seen)) == 200
    everything = asked(store, campaign, "dan", 1000)
    assert len(everything) == 600 - 200
    with pytest.raises(DataError, match="every object is rated, or kept"):
        asked(store, campaign, "eve")


def test_several_raters_may_rate_the_same_galaxy_where_that_is_wanted(store: CampaignStore, begin) -> None:  # type: ignore[no-untyped-def]
    campaign = begin(raters_per_object=2, batch=400)
    first, second, third = (asked(store, campaign, rater) for rater in ("ann", "bob", "cas"))
    assert pd.Series(first + second + third).value_counts().max() == 2
    assert len(third) == min(400, 600 - len(set(first) & set(second)))


def test_a_lease_that_expired_is_given_to_another(store: CampaignStore, begin) -> None:  # type: ignore[no-untyped-def]
    campaign = begin(batch=600, lease_minutes=1e-3)
    ids = asked(store, campaign, "ann")
    time.sleep(1.2)
    assert set(asked(store, campaign, "bob")) == set(ids)


def test_a_ranking_is_made_again_from_its_record(store: CampaignStore, begin) -> None:  # type: ignore[no-untyped-def]
    campaign = begin(pooled=True)
    for rater in ("bob", "ann"):
        ids = asked(store, campaign, rater)
        campaigning.rate(store, campaign, rater, [(object_id, n % 6) for n, object_id in enumerate(ids)])
    asked(store, campaign, "ann")
    number, record = store.rankings("odd", "ann")[-1]
    campaigning.rate(store, campaign, "bob", [(asked(store, campaign, "bob")[0], 5)])
    again = campaigning.reproduce(store, campaign, record, space_for(campaign))
    assert isinstance(again, RankingRecord)
    assert number > 1
    assert [one.object_id for one in again.asked] == [one.object_id for one in record.asked]
    np.testing.assert_allclose([one.mean for one in again.asked], [one.mean for one in record.asked], rtol=1e-6)
    assert (again.snapshot, again.seed) == (record.snapshot, record.seed)


def test_examples_count_as_fascinating_and_what_is_like_them_is_asked_about(
    store: CampaignStore, generated: Generated, begin
) -> None:  # type: ignore[no-untyped-def]
    example = generated.ids[7]
    campaign = begin(examples=[str(example)], acquisition="mean", batch_kind="top", batch=2)
    same_vector = {str(generated.ids[11]), str(generated.ids[13])}
    assert set(asked(store, campaign)) == same_vector


def test_pooled_campaigns_begin_with_what_others_liked(store: CampaignStore, generated: Generated, begin) -> None:  # type: ignore[no-untyped-def]
    campaign = begin(pooled=True, raters_per_object=2, acquisition="mean", batch_kind="top", batch=2)
    liked, dull = str(generated.ids[7]), str(generated.ids[100])
    campaigning.rate(store, campaign, "bob", [(liked, 5), (dull, 0)])
    campaigning.rate(store, campaign, "ann", [(str(generated.ids[200]), 1), (str(generated.ids[300]), 0)])
    assert liked in asked(store, campaign, "ann")


@pytest.mark.parametrize(
    ("ratings", "said"),
    [
        ([("nobody", 3)], "1 that it does not have: nobody"),
        ([("{0}", 6)], "rating: expected a whole number from 0 to 5, found 6"),
        ([("{0}", -1)], "rating: expected a whole number from 0 to 5, found -1"),
        ([("{0}", 3), ("{0}", 4)], "expected each object once"),
    ],
)
def test_ratings_that_cannot_be_are_refused_and_nothing_is_recorded(
    store: CampaignStore, generated: Generated, begin, ratings, said
) -> None:  # type: ignore[no-untyped-def]
    campaign = begin()
    with pytest.raises(DataError, match=said):
        campaigning.rate(store, campaign, "ann", [(name.format(generated.ids[0]), value) for name, value in ratings])
    assert store.events("odd") == []


def test_what_is_wrong_with_a_campaign_is_said(store: CampaignStore, generated: Generated, begin) -> None:  # type: ignore[no-untyped-def]
    campaign = begin()
    begin()
    with pytest.raises(OutputError, match="another campaign 'odd'"):
        begin(batch=7)
    with pytest.raises(ConfigError, match="letters, digits"):
        begin("no/slash")
    with pytest.raises(DataError, match="does not have: 3"):
        begin("other", examples=["3"])
    with pytest.raises(InputNotFoundError, match="did you mean 'odd'"):
        command("campaign", "next", "oddd")
    with pytest.raises(DataError, match="no batch to rate"):
        campaigning.rate_batch(store, campaign, "ann", "123")
    asked(store, campaign)
    for scores in ("123", "12345x", "123456"):
        with pytest.raises(DataError, match="expected 6 digits from 0 to 5"):
            campaigning.rate_batch(store, campaign, "ann", scores)
    with pytest.raises(DataError, match="no rating in odd"):
        campaigning.undo(store, campaign, "ann")
    with pytest.raises(ConfigError, match="expected a terminal"):
        command("campaign", "rate", "odd")
    with pytest.raises(ConfigError, match="ID=RATING"):
        command("campaign", "rate", "odd", "5000:3")
    store.close()


@pytest.mark.parametrize("ratings", [[3], [5, 5, 5], [0, 0, 0, 0], [5, 0, 5, 0, 5, 0]])
def test_few_ratings_all_equal_or_contradictory_still_give_a_batch(store: CampaignStore, begin, ratings) -> None:  # type: ignore[no-untyped-def]
    campaign = begin()
    ids = asked(store, campaign)
    campaigning.rate(store, campaign, "ann", list(zip(ids, ratings, strict=False)))
    for object_id in ids[len(ratings) :]:
        campaigning.rate(store, campaign, "ann", [(object_id, ratings[0])])
    assert len(asked(store, campaign)) == 6


@given(st.text(max_size=20))
@settings(max_examples=100, deadline=None)
def test_no_text_given_as_a_rating_ends_in_anything_but_a_clear_error(text: str) -> None:
    from jobs.cli_rank import _pair

    try:
        object_id, rating = _pair(text)
    except VoorwerpError:
        return
    assert f"{object_id}=" in text
    assert isinstance(rating, int)


def test_overrides_are_read_as_yaml() -> None:
    assert overrides({"a": None, "b": 1}, ["c=[1, 2]", "d=x"]) == {"b": 1, "c": [1, 2], "d": "x"}


@pytest.mark.cluster
def test_a_release_is_ranked_listed_and_shown(finished: Path, tmp_path: Path, ray_session: None) -> None:
    space = space_of(str(finished), "search", RayConfig())
    opened = open_space(space.folder, space.partitions)
    ids = opened.ids(np.arange(0, 80, 4))
    ratings = pd.DataFrame({"object_id": ids, "rating": [n % 6 for n in range(20)]})
    ratings.loc[20] = ["4", 2]
    ratings.to_csv(tmp_path / "ratings.csv", index=False)
    output = tmp_path / "ranked"
    arguments = ["rank", finished, "--ratings", tmp_path / "ratings.csv", "-o", output, "--top", "30"]
    command(*arguments, "-s", "space=search", "-s", "sheet=12")
    record = json.loads((output / "ranking.json").read_text())
    assert record["counts"] == {"ratings": 20, "unknown": 1, "ranked": 90}
    table = read_columns(Store(str(output / "candidates")), ["object_id", "rank", "expected_rating", "rating"])
    kernel = Kernel(record["kernel"], record["length"], record["alpha"], record["noise"])
    rows = opened.find(ids)
    values = np.array(ratings["rating"][:20], float)
    order = np.argsort([int(name) for name in ids])
    posterior = condition(kernel, opened.vectors(rows)[order], values[order])
    names = [str(name) for name in table["object_id"].to_pylist()]
    mean, _ = mean_and_sd(posterior, opened.vectors(opened.find(names)))
    np.testing.assert_allclose(table["expected_rating"].to_numpy(), mean, rtol=1e-6, atol=1e-9)
    assert sorted(table["rank"].to_pylist()) == list(range(1, 91))
    best = table.sort_by("rank")
    assert np.all(np.diff(best["expected_rating"].to_numpy()) <= 0)
    unrated = [
        name
        for name, given in zip(best["object_id"].to_pylist(), best["rating"].to_pylist(), strict=True)
        if given is None
    ]
    top = pd.read_csv(output / "top.csv")
    assert top["object_id"].tolist() == unrated[:30]
    assert pd.read_parquet(output / "top.parquet")["object_id"].tolist() == unrated[:30]
    assert len(Table.read(output / "top.vot")) == 30
    assert top["because"].str.contains(r"\(\d\) \+\d").any()
    assert Image.open(output / "top.png").width > 600
    assert Image.open(io.BytesIO((output / "calibration.png").read_bytes())).width > 100
    catalogue = lsdb.open_catalog(output / "candidates")
    assert len(catalogue.compute()) == 90
    command(*arguments, "-s", "space=search", "-s", "sheet=12")
    with pytest.raises(OutputError, match="of other top"):
        command(*arguments[:-1], "31", "-s", "space=search", "-s", "sheet=12")


@pytest.mark.cluster
def test_a_campaigns_ratings_rank_its_release_and_no_other(
    finished: Path, generated: Generated, store: CampaignStore, ray_session: None
) -> None:
    command("campaign", "create", "odd", finished, "-s", "space=search", "--batch", "8")
    campaign = store.campaign("odd")
    for rater in ("ann", "bob"):
        command("campaign", "next", "odd", "--rater", rater, "--sheet", f"{rater}.png")
        assert Image.open(f"{rater}.png").width > 500
        command("campaign", "rate", "odd", "--rater", rater, "--scores", "01234500")
    command("rank", finished, "--campaign", "odd", "--rater", "ann", "-o", "ann", "-s", "sheet=0")
    command("rank", finished, "--campaign", "odd", "-o", "all", "-s", "sheet=0")
    counts = [json.loads(Path(name, "ranking.json").read_text())["counts"]["ratings"] for name in ("ann", "all")]
    assert counts == [8, 16]
    assert not Path("ann", "top.png").exists()
    with pytest.raises(DataError, match=r"rates .* is to be ranked"):
        command("rank", generated.output, "--campaign", "odd", "-o", "other")
    with pytest.raises(DataError, match="create a campaign on the new release"):
        command("rank", finished, "--campaign", "odd", "-o", "other", "-s", "space=map")
    with pytest.raises(ConfigError, match="either --ratings FILE or --campaign NAME"):
        command("rank", finished, "-o", "other")
    with pytest.raises(DataError, match="expected at least one rating"):
        command("rank", finished, "--campaign", "odd", "--rater", "nobody", "-o", "other")
    assert campaign.config.batch == 8


@pytest.mark.cluster
def test_simulated_campaigns_compare_all_methods_and_go_on(finished: Path, tmp_path: Path, ray_session: None) -> None:
    own = shutil.copytree(finished, tmp_path / "own")
    space = space_of(str(own), "search", RayConfig())
    opened = open_space(space.folder, space.partitions)
    first = opened.vectors(np.arange(90))[:, 0]
    truth = pd.DataFrame({"object_id": opened.ids(np.arange(90)), "odd": (first - first.min()) / np.ptp(first)})
    truth.to_csv(tmp_path / "truth.csv", index=False)
    arguments = ["campaign", "simulate", own, tmp_path / "truth.csv", "--fraction", "odd", "-o", tmp_path / "out"]
    arguments += ["-s", "space=search", "-s", "n_ratings=20", "-s", "ellipse_side_pixels=32"]
    command(*arguments, "--repeats", "1")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / "trials").iterdir()}
    assert len(before) == 6
    command(*arguments, "--repeats", "2")
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / "trials").iterdir()}
    assert len(after) == 12
    assert {name: after[name] for name in before} == before
    summary = pd.read_csv(tmp_path / "out" / "summary.csv").set_index("method")
    assert summary.loc["gp", "published_average_precision_mean"] > 0.7
    assert set(summary["repeats"]) == {2}
    for name in ("accuracy", "found", "rank_weighted_score"):
        assert Image.open(tmp_path / "out" / f"{name}.png").width > 100
    with pytest.raises(OutputError, match="holds campaigns with other n_ratings"):
        command(*arguments, "-s", "n_ratings=30")
    with pytest.raises(DataError, match="give --threshold"):
        command(*arguments, "--threshold", "2")
