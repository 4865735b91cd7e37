"""Predictions: by hand for small numbers, and never smaller for more work."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.compute.estimate import (
    ONCE,
    READ_PINNED,
    Machines,
    Prediction,
    Probe,
    Requests,
    Span,
    Work,
    assemble_seconds,
    bytes_written,
    cost,
    count_requests,
    draw,
    machine_misfits,
    mean_span,
    memory,
    predict,
    reject_misfits,
    reject_span,
    start_seconds,
    took,
    work_seconds,
)
from schemas.price import PriceTable

quick = settings(deadline=None, max_examples=60)


def work(n_units: int = 10, rows_per_unit: int = 100, **changes: Any) -> Work:
    """1,000 objects in 10 units and 2 partitions."""
    n = n_units * rows_per_unit
    settings = {
        "n_objects": n,
        "n_units": n_units,
        "n_partitions": -(-n_units // 5),
        "dimension": 1000,
        "views": 1,
        "view_bytes": 600_000,
        "batch_size": 20,
        "max_reject_fraction": 0.25,
        "rejects_judged_from": 1_000,
        "cutout_requests": READ_PINNED,
        "output_on_s3": True,
    }
    return Work.model_validate(settings | changes)


def probe(**changes: Any) -> Probe:
    """2 ms to load a cutout, 10 ms to encode a view, all of it CPU; 4,100 bytes per row; no spread, no rejects."""
    settings = {
        "n_objects": 64,
        "rejected": {},
        "cutout_bytes": (30_000, 30_000),
        "load_s": (0.002, 0.002),
        "load_cpu_s": 0.002,
        "runtime": "torch",
        "encode_s": (0.010, 0.010),
        "encode_cpu_s": 0.010,
        "row_bytes": 4100.0,
        "file_bytes": 4096.0,
        "start_cpu_s": 5.0,
        "request_s": 0.0,
        "worker_bytes": 800_000_000,
        "loader_bytes": 100_000_000,
        "shared_bytes": 400_000_000,
        "driver_bytes": 700_000_000,
        "busy_cores": 0.0,
    }
    return Probe.model_validate(settings | changes)


def machines(**changes: Any) -> Machines:
    settings = {"device": "cpu", "workers": 2, "cores": 2, "in_stages": False, "is_local": True}
    return Machines.model_validate(settings | changes)


PRICES = PriceTable(
    currency="EUR", per_cpu_hour=0.5, per_gpu_hour=2, per_1000_get=0.4, per_1000_put=5, per_gb_month=3, per_gb_egress=10
)


@quick
@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 80), st.integers(0, 5))
def test_a_sample_has_rows_that_exist_in_order_each_once_and_the_same_for_one_seed(
    n_rows: list[int], n: int, seed: int
) -> None:
    found = draw(n_rows, n, seed)
    assert len(found) == min(n, sum(n_rows))
    assert found == sorted(set(found))
    assert all(0 <= row < n_rows[number] for number, row in found)
    assert found == draw(n_rows, n, seed)


def test_a_sample_takes_one_row_of_each_stretch_and_another_seed_takes_others() -> None:
    found = draw([100] * 8, 16, seed=0)
    assert [(number, row // 50) for number, row in found] == [(n, half) for n in range(8) for half in range(2)]
    assert found != draw([100] * 8, 16, seed=1)


def test_a_sample_of_nothing_is_empty() -> None:
    assert draw([], 64, seed=0) == []


def test_a_mean_has_the_interval_of_students_t_and_stays_within_the_values() -> None:
    # t(0.975, 2 degrees of freedom) = 4.3027, standard deviation 1.
    span = mean_span([1.0, 2.0, 3.0])
    assert (span.low, span.likely) == (1.0, 2.0)
    assert span.high == pytest.approx(2 + 4.3027 / 3**0.5, rel=1e-4)


def test_one_value_stands_for_half_to_twice_of_it() -> None:
    assert mean_span([3.0]) == Span(low=1.5, likely=3.0, high=6.0)


@pytest.mark.parametrize(
    ("rejected", "n", "low", "high"),
    [
        (0, 64, 0.0, 1 - 0.025 ** (1 / 64)),
        (64, 64, 0.025 ** (1 / 64), 1.0),
        (5, 50, 0.0333, 0.2181),  # Tables of Clopper and Pearson 1934, as in any handbook.
    ],
)
def test_a_fraction_has_the_exact_binomial_interval(rejected: int, n: int, low: float, high: float) -> None:
    span = reject_span(rejected, n)
    assert (span.low, span.likely, span.high) == pytest.approx((low, rejected / n, high), abs=5e-5)


def test_an_empty_sample_says_nothing_about_a_fraction() -> None:
    assert reject_span(0, 0) == Span(low=0, likely=0, high=1)


def test_on_cpus_the_cores_are_what_counts_by_hand() -> None:
    # 2 workers take 5 turns of 100 objects each: 5 x 2 x 100 x (2 + 10) ms / 2 cores = 6 s,
    # and before each turn 20 cutouts are read, 5 x 20 x 2 ms = 0.2 s. Side by side they are a fifth slower.
    span = work_seconds(work(), probe(), machines())
    assert (span.low, span.likely) == pytest.approx((6.2, 6.2 * 1.2))
    # One more unit in the end: 100 x 10 ms.
    assert span.high == pytest.approx(7.2 * 1.2)
    # A worker alone: 10 units of 100 x 12 ms on one core, 20 cutouts before each.
    assert work_seconds(work(), probe(), machines(workers=1, cores=1)).likely == pytest.approx(12.4)


def test_on_gpus_the_slower_of_reading_and_encoding_counts_by_hand() -> None:
    # Encoding: 1,000 x 10 ms on one GPU = 10 s; reading, 1,000 x 2 ms on 2 cores, is hidden but for the first unit.
    gpu = machines(device="cuda", workers=1, in_stages=True)
    assert work_seconds(work(), probe(), gpu).likely == pytest.approx(10.2)
    # With 0.5 ms per view reading is what counts: 1 s.
    assert work_seconds(work(), probe(encode_s=(0.0005, 0.0005)), gpu).likely == pytest.approx(1.2)
    # Without stages it decodes as well, 1,000 x 2 ms, and waits for the first batch of every unit: 10 x 20 x 2 ms.
    assert work_seconds(work(), probe(), machines(device="cuda", workers=1)).likely == pytest.approx(12.4)


def test_requests_to_a_slow_output_delay_every_unit() -> None:
    # In 5 turns the 8 requests of a unit at work (listed below), 0.1 s each.
    quick_s = work_seconds(work(), probe(), machines()).low
    assert work_seconds(work(), probe(request_s=0.1), machines()).low == pytest.approx(quick_s + 5 * 0.8)


def test_requests_to_a_slow_output_are_hidden_in_stages() -> None:
    # Tasks wait for them; the GPU waits for those of the first unit, 9 of 0.1 s.
    gpu = machines(device="cuda", workers=1, in_stages=True)
    quick_s = work_seconds(work(), probe(), gpu).likely
    assert work_seconds(work(), probe(request_s=0.1), gpu).likely == pytest.approx(quick_s + 0.9)


def test_other_work_on_this_machine_moves_the_high_end_alone() -> None:
    quiet, busy = (predict(work(), probe(busy_cores=n), machines(), None) for n in (0, 2))
    assert (busy.wall_s.low, busy.wall_s.likely) == (quiet.wall_s.low, quiet.wall_s.likely)
    # Start and end take (2 + 2) / 2 as long; work (2 + 2) / (1 + 2), as the probe had met the other work already.
    around_s = quiet.start_s + quiet.assemble_s
    assert busy.wall_s.high == pytest.approx(around_s * 2 + quiet.work_s.high * 4 / 3)


def test_workers_that_share_cores_start_one_after_the_other() -> None:
    assert start_seconds(probe(), machines(workers=6)) - start_seconds(probe(), machines(workers=2)) == 10.0


def test_bytes_are_rows_twice_and_what_each_file_has_besides() -> None:
    assert bytes_written(work(), probe()) == (2 * 1000 * 4100 + 12 * 4096, 1000 * 4100 + 2 * 4096)
    half = bytes_written(work(), probe(rejected={"not_found": 32}))
    assert half == (1000 * 4100 + 12 * 4096, 500 * 4100 + 2 * 4096)


def test_requests_by_hand() -> None:
    # Per cutout HEAD, GET. Per unit: draining? HEAD, LIST; mark PUT; plan HEAD, 2 GET; rows PUT; commit PUT; then
    # commit and rows read again, 2 GET. Per partition PUT, 2 GET. Weights, 2 workers: 2 GET. In 45 s the lease is
    # renewed 3 times: GET, PUT. 30 files are deleted: LIST, PUT.
    found = count_requests(work(), probe(), machines(), wall_s=45.0)
    assert found == ONCE + Requests(
        n_get=1000 + 10 * 4 + 2 * 2 + 2 + 3,
        n_head=1000 + 10 * 2,
        n_put=10 * 3 + 2 + 3 + 1,
        n_list=10 + 1,
    )
    # In stages every unit has a second mark.
    in_stages = count_requests(work(), probe(), machines(in_stages=True), wall_s=45.0)
    assert in_stages == found + Requests(n_put=10)


def test_rejects_cost_an_upload_and_a_read_of_each_unit_that_has_any() -> None:
    with_rejects = count_requests(work(), probe(rejected={"shape": 64}), machines(), wall_s=0)
    without = count_requests(work(), probe(), machines(), wall_s=0)
    assert with_rejects == without + Requests(n_put=1, n_get=1) * 10


def test_large_files_are_uploaded_in_pieces_of_eight_megabytes() -> None:
    # 100 rows of 400 kB are 40 MB: 5 pieces, begin and end, instead of one request; 500 rows: 24 pieces.
    small, large = (count_requests(work(), probe(row_bytes=n), machines(), 0).n_put for n in (4e3, 4e5))
    assert large - small == 10 * 6 + 2 * 25


def test_local_files_need_no_requests() -> None:
    all_local = work(cutout_requests=Requests(), output_on_s3=False)
    assert count_requests(all_local, probe(), machines(), 100) == Requests()
    half_local = work(cutout_requests=READ_PINNED * 0.5, output_on_s3=False)
    assert count_requests(half_local, probe(), machines(), 100) == Requests(n_get=500, n_head=500)


def test_memory_of_a_worker_by_hand() -> None:
    # Two batches of 20 views of 600 kB, and five copies of 100 vectors of 4 kB.
    assert memory(work(), probe(), machines()) == (800_000_000 + 24_000_000 + 2_000_000, 100_000_000)
    # A batch is no larger than a unit; in stages two units of 100 views count in workers and tasks.
    assert memory(work(batch_size=4096), probe(), machines())[0] == 800_000_000 + 120_000_000 + 2_000_000
    assert memory(work(), probe(), machines(in_stages=True)) == (922_000_000, 222_000_000)


def test_memory_of_all_by_hand() -> None:
    found = predict(work(), probe(), machines(), None)
    assert found.driver_bytes == 700_000_000 + 10 * 2_000
    # Two workers, two tasks, libraries once, driver, Ray.
    assert found.total_bytes == 2 * 826_000_000 + 200_000_000 + 400_000_000 + found.driver_bytes + 900_000_000


def test_money_by_hand() -> None:
    hours = Span(low=1, likely=2, high=4)
    found = cost(
        PRICES,
        cpu_hours=hours,
        gpu_hours=hours.times(0.5),
        requests=Requests(n_get=1500, n_head=500, n_put=300, n_list=100),
        bytes_read=Span(low=1e9, likely=2e9, high=3e9),
        bytes_kept=4_000_000_000,
    )
    assert found.machines == Span(low=1.5, likely=3, high=6)
    assert (found.requests, found.egress, found.per_month) == pytest.approx((0.8 + 2, 20, 12))
    assert found.total.likely == pytest.approx(25.8)
    assert found.currency == "EUR"


def test_hours_are_those_of_all_that_is_held_from_start_to_end() -> None:
    on_cpu = predict(work(), probe(), machines(), None)
    assert on_cpu.cpu_hours.likely == pytest.approx(2 * on_cpu.wall_s.likely / 3600)
    assert on_cpu.cpu_hours_busy == pytest.approx(1000 * 0.012 / 3600)
    assert (on_cpu.gpu_hours.likely, on_cpu.gpu_hours_busy) == (0, 0)
    on_gpu = predict(work(views=3), probe(), machines(device="cuda", workers=4, cores=16), None)
    assert on_gpu.gpu_hours.likely == pytest.approx(4 * on_gpu.wall_s.likely / 3600)
    assert on_gpu.gpu_hours_busy == pytest.approx(3000 * 0.010 / 3600)
    assert on_gpu.cpu_hours_busy == pytest.approx(1000 * 0.002 / 3600)


def test_without_prices_there_is_no_money_and_without_sizes_no_bytes_read() -> None:
    assert predict(work(), probe(), machines(), None).cost is None
    unknown = predict(work(), probe(cutout_bytes=()), machines(), PRICES)
    assert unknown.bytes_read is None
    assert unknown.cost is not None
    assert unknown.cost.egress == 0


spread = st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=8).map(tuple)
sizes = st.tuples(st.integers(1, 500), st.integers(1, 600))


def numbers(found: Prediction) -> list[float]:
    """Everything in a prediction that more work cannot make smaller."""
    assert found.cost is not None
    return [
        found.wall_s.low,
        found.wall_s.likely,
        found.wall_s.high,
        found.cpu_hours.likely,
        found.cpu_hours_busy,
        found.requests.n_get,
        found.requests.n_head,
        found.requests.n_put,
        found.requests.n_list,
        found.bytes_written,
        found.bytes_kept,
        found.driver_bytes,
        found.total_bytes,
        found.cost.total.likely,
        found.cost.per_month,
    ]


@quick
@given(sizes, st.integers(1, 100), spread, spread, st.integers(0, 64), st.sampled_from(["cpu", "cuda"]), st.booleans())
def test_more_objects_never_take_less(
    size: tuple[int, int], more: int, load_s: tuple, encode_s: tuple, n_rejected: int, device: str, in_stages: bool
) -> None:
    n_units, rows = size
    measured = probe(load_s=load_s, encode_s=encode_s, rejected={"not_found": n_rejected}, request_s=0.01)
    on = machines(device=device, in_stages=in_stages)
    few, many = (predict(work(n, rows), measured, on, PRICES) for n in (n_units, n_units + more))
    assert all(a <= b * (1 + 1e-9) for a, b in zip(numbers(few), numbers(many), strict=True))


@quick
@given(sizes, spread, spread, st.floats(0, 20))
def test_every_range_holds_its_likely_value(size: tuple, load_s: tuple, encode_s: tuple, busy: float) -> None:
    measured = probe(load_s=load_s, encode_s=encode_s, busy_cores=busy, rejected={"shape": 3})
    found = predict(work(*size), measured, machines(), PRICES)
    assert found.cost is not None
    for span in (found.wall_s, found.work_s, found.cpu_hours, found.rejects, found.bytes_read, found.cost.total):
        assert span is not None
        assert span.low <= span.likely * (1 + 1e-9)
        assert span.likely <= span.high * (1 + 1e-9)


@quick
@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 600), st.integers(0, 64))
def test_requests_of_two_halves_are_those_of_the_whole(a: int, b: int, rows: int, n_rejected: int) -> None:
    # Whole partitions and whole listings alone can be halved: five units make one, and cleaning is left out.
    def per_unit(n: int) -> Requests:
        found = count_requests(work(5 * n, rows), probe(rejected={"shape": n_rejected}), machines(workers=1), wall_s=0)
        return Requests(n_get=found.n_get - ONCE.n_get - 1, n_head=found.n_head - ONCE.n_head)

    assert (per_unit(a) + per_unit(b)).total == pytest.approx(per_unit(a + b).total)


@quick
@given(sizes, st.integers(1, 64), st.floats(0.001, 1), st.floats(0.001, 1))
def test_twice_the_machines_never_take_longer_at_work(size: tuple, n: int, load_s: float, encode_s: float) -> None:
    measured = probe(load_s=(load_s,), encode_s=(encode_s,), load_cpu_s=load_s, encode_cpu_s=encode_s)
    one, two = (work_seconds(work(*size), measured, machines(workers=k, cores=k, is_local=False)) for k in (n, 2 * n))
    assert two.likely <= one.likely * (1 + 1e-9)


def test_assembling_waits_for_requests_and_shares_the_cores() -> None:
    idle = assemble_seconds(work(), probe(), machines(cores=1))
    assert assemble_seconds(work(), probe(request_s=1.0), machines(cores=1)) == pytest.approx(idle + 10 * 2)
    assert assemble_seconds(work(), probe(request_s=1.0), machines(cores=8)) < idle + 10 * 2 / 2 + 1e-9


def test_a_disk_that_is_one_byte_too_small_is_refused() -> None:
    prediction = predict(work(), probe(), machines(), None)
    written = prediction.bytes_written
    assert written == 8_249_152
    assert machine_misfits(prediction, written, None, None, None) == []
    (found,) = machine_misfits(prediction, written - 1, None, None, None)
    assert found.startswith("disk: about 0.00825 GB will be written")


@pytest.mark.parametrize(("n_rejected", "refused"), [(16, False), (24, False), (25, True), (64, True)])
def test_rejects_are_refused_where_the_sample_leaves_no_doubt(n_rejected: int, refused: bool) -> None:
    # 24 of 64 are surely more than 25.7 %, 25 of 64 more than 27.1 %.
    found = reject_misfits(work(max_reject_fraction=0.26), 64, {"not_found": n_rejected})
    assert bool(found) == refused
    if refused:
        assert f"{n_rejected} of 64 cutouts in the sample are rejected ({n_rejected} not_found)" in found[0]


def test_few_objects_are_never_refused_for_rejects_as_the_run_does_not_judge_them_either() -> None:
    assert reject_misfits(work(9), 64, {"not_found": 64}) == []
    assert reject_misfits(work(10), 64, {"not_found": 64}) != []


def test_memory_time_and_money_beyond_the_limits_are_each_named() -> None:
    found = predict(work(), probe(), machines(), PRICES)
    assert machine_misfits(found, None, None, None, None) == []
    assert machine_misfits(found, None, found.total_bytes, 1.0, 1000.0) == []
    memory_line, time, money = machine_misfits(found, None, found.total_bytes - 1, 0.001, 0.01)
    assert memory_line.startswith("memory: about 3.85 GB are needed, by each worker 0.826 GB")
    assert time == f"time: about {found.wall_s.likely / 3600:.3g} hours, more than --most-hours 0.001"
    assert money.endswith("EUR, more than --most-cost 0.01")


def test_what_it_took_by_hand() -> None:
    # 4 workers of 2 threads for 50 s over 2,000 cutouts; 4,000 cutouts were 120 s in the encoder.
    found = took(machines(workers=4, cores=8), 2_000, 50.0, 4_000, 120.0)
    assert found.cutouts_per_s == 40
    assert found.gpu_s_per_million is None
    assert (found.cpu_s_per_million.allocated, found.cpu_s_per_million.busy) == (200_000, 60_000)


def test_what_it_took_on_gpus_by_hand() -> None:
    found = took(machines(device="cuda", workers=4, cores=32), 2_000, 50.0, 4_000, 120.0)
    assert found.gpu_s_per_million is not None
    assert (found.gpu_s_per_million.allocated, found.gpu_s_per_million.busy) == (100_000, 30_000)
    assert (found.cpu_s_per_million.allocated, found.cpu_s_per_million.busy) == (800_000, None)


def test_a_run_that_found_everything_done_took_nothing() -> None:
    found = took(machines(), 0, 0.0, 4_000, 120.0)
    assert found.cutouts_per_s is None
    assert (found.cpu_s_per_million.allocated, found.cpu_s_per_million.busy) == (None, 30_000)


@pytest.mark.parametrize(("views", "of_a_batch", "of_a_unit"), [(1, 20, 100), (3, 18, 300), (50, 50, 5_000)])
def test_an_encoder_is_given_the_views_of_whole_objects(views: int, of_a_batch: int, of_a_unit: int) -> None:
    assert work(views=views).views_at_once(in_stages=False) == of_a_batch
    assert work(views=views).views_at_once(in_stages=True) == of_a_unit
    assert work(views=views, rows_per_unit=1).views_at_once(in_stages=False) == views


def test_workers_without_a_unit_are_left_out() -> None:
    assert machines(workers=8, cores=8).for_units(3).workers == 3
    assert machines(workers=8, cores=8).for_units(3).threads == 2
    assert machines(workers=8).for_units(0).workers == 1
