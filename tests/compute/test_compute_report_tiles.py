"""From sums of tiles to what stands out, and by what."""

import numpy as np

from engine.compute import sky
from engine.compute.pca import moments
from engine.compute.report_tiles import change_by_object, change_by_tile, judge, tiles_of_positions
from engine.compute.tile_drift import sum_groups, sum_tiles, whiten
from schemas.report import MEASURED
from tests.generated import clustered, positions

N_TILES, N = 40, 60


def test_a_position_is_in_the_tile_that_covers_it_or_in_none() -> None:
    ra_deg, dec_deg = positions(3000, 1)
    healpix = np.sort(sky.healpix_29(ra_deg, dec_deg))
    tiles = sky.partition(healpix, 50)
    orders, pixels = (np.array([getattr(tile, name) for tile in tiles]) for name in ("order", "pixel"))
    expected = np.repeat(np.arange(len(tiles)), [tile.stop - tile.start for tile in tiles])
    np.testing.assert_array_equal(tiles_of_positions(healpix, orders, pixels), expected)
    without = np.delete(np.arange(len(tiles)), 5)
    found = tiles_of_positions(healpix, orders[without], pixels[without])
    assert (found[expected == 5] == -1).all()
    assert (found[expected != 5] >= 0).all()


def test_every_reason_to_stand_out_is_named_and_the_worst_tile_comes_first() -> None:
    vectors, starts = clustered(N_TILES * N, 5, 2), np.arange(0, N_TILES * N, N)
    before = vectors.copy()
    scale = vectors.std(axis=0)
    vectors[starts[3] : starts[4]] += 3 * scale
    own = slice(starts[9], starts[10])
    vectors[own] = vectors[own].mean(axis=0) + 0.3 * (vectors[own] - vectors[own].mean(axis=0))
    whitening = whiten(moments(vectors))
    whitened, group = whitening(vectors), np.repeat(np.arange(N_TILES), N)
    n_rejected = np.ones(N_TILES, int)
    n_rejected[20] = 30
    sums = sum_tiles(whitened, starts)
    moved = sum_groups((vectors - before) @ whitening.matrix, group, N_TILES)
    judged = judge(sums, n_rejected, change_by_object(moved))
    flagged = {name: np.flatnonzero(tiles).tolist() for name, tiles in judged.flags.items()}
    assert flagged["mean"] == [3]
    assert flagged["spread"] == [9]
    assert flagged["rejects"] == [20]
    assert flagged["change"] == [3]  # The objects of the other one moved, but not together.
    assert judged.worst_first[0] == 3
    assert sorted(judged.worst_first.tolist()) == [3, 9, 20]
    assert set(judged.columns) == set(MEASURED)


def test_releases_of_other_objects_are_compared_by_the_means_of_tiles() -> None:
    starts, group = np.arange(0, N_TILES * N, N), np.repeat(np.arange(N_TILES), N)
    now, before = clustered(N_TILES * N, 5, 2), clustered(N_TILES * N, 5, 2)
    now, before = (one + np.random.default_rng(seed).normal(0, 1, one.shape) for seed, one in enumerate((now, before)))
    order = np.random.default_rng(5).permutation(len(before))
    before = before[order]
    before[starts[6] : starts[7]] += 2 * before.std(axis=0)
    whitening = whiten(moments(now))
    sums = sum_tiles(whitening(now), starts)
    scores = change_by_tile(sums, sum_groups(whitening(before), group, N_TILES))
    assert np.flatnonzero(scores.z >= 5).tolist() == [6]
    few = sum_groups(whitening(before[:10]), group[:10], N_TILES)
    assert np.isnan(change_by_tile(sums, few).z).all()


def test_without_a_previous_release_nothing_changed() -> None:
    sums = sum_tiles(np.random.default_rng(0).normal(size=(1000, 3)), np.arange(0, 1000, 50))
    judged = judge(sums, np.zeros(20, int), None)
    assert not judged.flags["change"].any()
    assert np.isnan(judged.columns["z_change"]).all()
    assert len(judged.worst_first) == 0
