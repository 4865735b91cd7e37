"""Catalogues in: five formats, one table, and a refusal that names the column where something is wrong."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Column, MaskedColumn, Table
from hats.catalog.dataset.collection_properties import CollectionProperties
from upath import UPath

from engine.compute.plan import plan_objects
from engine.storage.catalogue import read_catalogue
from engine.storage.cutouts import CutoutReader
from engine.storage.hats_catalogue import write_hats_metadata
from engine.storage.images import CutoutError
from engine.storage.parquet import write_table
from engine.storage.pins import locate_cutouts, pin_of
from engine.storage.store import Store
from schemas.config import CatalogueConfig, CutoutConfig
from schemas.errors import DataError, InputNotFoundError
from schemas.partition import Partition
from schemas.reject import RejectReason
from tests.storage.boxes import hugging_face

FORMATS = ("parquet", "csv", "fits", "votable")
SUFFIXES = {"parquet": "parquet", "csv": "csv", "fits": "fits", "votable": "vot"}


def columns(**changes: Any) -> dict[str, Any]:
    plain = {
        "object_id": [11, 12, 13],
        "ra_deg": [10.5, 20.25, 359.0],
        "dec_deg": [-5.0, 0.0, 89.5],
        "cutout": ["a.jpg", "sub/b.jpg", "/data/c.jpg"],
        "magnitude": [15.5, 16.25, 17.0],
        "flag": [1, 0, 1],
    }
    return {name: values for name, values in {**plain, **changes}.items() if values is not None}


def write(folder: Path, kind: str, table: dict[str, Any]) -> Path:
    path = folder / f"catalogue.{SUFFIXES[kind]}"
    if kind == "parquet":
        pq.write_table(pa.table(table), path)
    elif kind == "csv":
        pacsv.write_csv(pa.table(table), path)
    else:
        Table(table).write(path, format=kind, overwrite=True)
    return path


def read(path: Path | str, **settings: Any) -> pa.Table:
    return read_catalogue(CatalogueConfig(path=str(path), **settings))


def refuse(path: Path | str, message: str, **settings: Any) -> None:
    with pytest.raises(DataError, match=message):
        read(path, **settings)


def write_csv(folder: Path, text: str) -> Path:
    path = folder / "catalogue.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_table(tmp_path: Path, kind: str) -> None:
    table = read(write(tmp_path, kind, columns()))
    assert table.schema.names == ["object_id", "ra_deg", "dec_deg", "cutout", "magnitude", "flag"]
    assert [str(field.type) for field in table.schema][:5] == ["int64", "double", "double", "string", "double"]
    expected = columns(cutout=[f"{tmp_path}/a.jpg", f"{tmp_path}/sub/b.jpg", "/data/c.jpg"])
    assert table.to_pydict() == expected


def write_hats(store: Store) -> None:
    table = pa.table(columns())
    objects = plan_objects(table, keep_first_duplicate=False).objects
    healpix = objects["_healpix_29"].to_numpy()
    partitions = [Partition(0, int(pixel)) for pixel in np.unique(healpix >> 58)]
    for part in partitions:
        write_table(store, part.path, objects.filter(pa.array(healpix >> 58 == part.pixel)))
    write_hats_metadata(store, "survey", partitions, len(objects))


def test_hats_written_by_us_gives_its_rows_back(store: Store) -> None:
    write_hats(store)
    table = read(store.uri())
    assert table.schema.names == ["object_id", "ra_deg", "dec_deg", "cutout", "magnitude", "flag"]
    by_id = dict(zip(table["object_id"].to_pylist(), table["cutout"].to_pylist(), strict=True))
    folder = store.uri().rpartition("/")[0]
    assert by_id == {11: f"{folder}/a.jpg", 12: f"{folder}/sub/b.jpg", 13: "/data/c.jpg"}


def test_a_hats_collection_is_its_primary_table(store: Store) -> None:
    write_hats(store.below("survey"))
    properties = CollectionProperties(obs_collection="all", hats_primary_table_url="survey")
    properties.to_properties_file(UPath(store.uri()))
    assert sorted(read(store.uri())["object_id"].to_pylist()) == [11, 12, 13]


def test_hats_without_its_partitions_is_refused(local_store: Store) -> None:
    write_hats(local_store)
    local_store.delete_folder("dataset")
    refuse(local_store.uri(), "not readable as hats")


def test_a_catalogue_on_s3_is_the_root_of_its_relative_uris(s3_store: Store, tmp_path: Path) -> None:
    s3_store.write("survey/catalogue.csv", write(tmp_path, "csv", columns()).read_bytes())
    uris = read(s3_store.uri("survey/catalogue.csv"))["cutout"].to_pylist()
    assert uris == [s3_store.uri("survey/a.jpg"), s3_store.uri("survey/sub/b.jpg"), "/data/c.jpg"]


@pytest.mark.parametrize("form", ["{}", "{}/", "file://{}"])
def test_a_folder_of_parquet_files_is_one_catalogue(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    pq.write_table(pa.table(columns()), folder / "0.parquet")
    pq.write_table(pa.table(columns(object_id=[21, 22, 23])), folder / "1.parquet")
    table = read(form.format(folder))
    assert table["object_id"].to_pylist() == [11, 12, 13, 21, 22, 23]
    assert table["cutout"][0].as_py() == f"{tmp_path}/a.jpg"


def test_a_gzipped_csv_is_read(tmp_path: Path) -> None:
    data = gzip.compress(write(tmp_path, "csv", columns()).read_bytes())
    (tmp_path / "catalogue.csv.gz").write_bytes(data)
    assert len(read(tmp_path / "catalogue.csv.gz")) == 3


def test_a_format_that_is_named_wins_over_the_name(tmp_path: Path) -> None:
    path = write(tmp_path, "csv", columns()).rename(tmp_path / "catalogue.txt")
    refuse(path, "cannot tell the format from the name")
    assert len(read(path, format="csv")) == 3


def test_columns_of_other_names_are_found_and_renamed(tmp_path: Path) -> None:
    table = {"objID": [1], "RA": [10.0], "DEC": [5.0], "file": ["a.jpg"]}
    names = {"id_column": "objID", "ra_column": "RA", "dec_column": "DEC", "cutout_column": "file"}
    found = read(write(tmp_path, "fits", table), **names)
    assert found.schema.names == ["object_id", "ra_deg", "dec_deg", "cutout"]


@pytest.mark.parametrize("root", ["/elsewhere", "s3://bucket/pixels", "s3://bucket/pixels/"])
def test_relative_uris_start_from_cutout_root_if_given(tmp_path: Path, root: str) -> None:
    uris = read(write(tmp_path, "csv", columns()), cutout_root=root)["cutout"].to_pylist()
    assert uris == [f"{root.rstrip('/')}/a.jpg", f"{root.rstrip('/')}/sub/b.jpg", "/data/c.jpg"]


def test_uris_are_absolute_even_from_a_relative_cutout_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Workers have other working directories than the command line.
    path = write(tmp_path, "csv", columns())
    monkeypatch.chdir(tmp_path)
    assert read(path, cutout_root="pixels")["cutout"][0].as_py() == f"{tmp_path}/pixels/a.jpg"


def test_a_relative_catalogue_path_gives_absolute_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "csv", columns())
    monkeypatch.chdir(tmp_path)
    assert read("catalogue.csv")["cutout"][0].as_py() == f"{tmp_path}/a.jpg"


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "ids",
    [
        ["12345678901234567890", "12345678901234567891", "1"],
        ["007", "7", "8"],
        ["J001234.5+001234", "é", "b c"],
        ["+1", "2", "3"],
    ],
)
def test_text_ids_stay_text_to_the_letter(tmp_path: Path, kind: str, ids: list[str]) -> None:
    if kind == "fits":
        ids = [value.replace("é", "e") for value in ids]  # FITS tables are ASCII.
    assert read(write(tmp_path, kind, columns(object_id=ids)))["object_id"].to_pylist() == ids


@pytest.mark.parametrize("kind", FORMATS)
def test_whole_numbers_as_text_are_integer_ids(tmp_path: Path, kind: str) -> None:
    table = read(write(tmp_path, kind, columns(object_id=["1237645879551066262", "-5", "0"])))
    assert table["object_id"].type == pa.int64()
    assert table["object_id"].to_pylist() == [1237645879551066262, -5, 0]


def test_fits_byte_strings_lose_their_padding_and_nothing_else(tmp_path: Path) -> None:
    ids = np.array([b"J1", b"NGC 1300", b"x"], dtype="S20")
    assert read(write(tmp_path, "fits", columns(object_id=ids)))["object_id"].to_pylist() == ["J1", "NGC 1300", "x"]


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint8, np.uint32, np.int64])
def test_integers_of_any_width_are_ids(tmp_path: Path, dtype: type) -> None:
    table = read(write(tmp_path, "fits", columns(object_id=np.array([1, 2, 3], dtype))))
    assert table["object_id"].type == pa.int64()


@pytest.mark.parametrize("kind", ["parquet", "fits", "votable"])
def test_float_ids_are_refused(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind, columns(object_id=[1.0, 2.0, 3.0]))
    refuse(path, "column 'object_id': expected integers or strings, found double")


def test_unsigned_ids_beyond_63_bits_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "parquet", columns(object_id=pa.array([1, 2, 2**63 + 5], pa.uint64())))
    refuse(path, "column 'object_id': expected 64-bit signed integers")


@pytest.mark.parametrize("kind", ["parquet", "fits", "votable"])
def test_null_ids_are_refused(tmp_path: Path, kind: str) -> None:
    masked = MaskedColumn([1, 2, 3], mask=[False, True, False])
    path = write(tmp_path, kind, columns(object_id=[1, None, 3] if kind == "parquet" else masked))
    refuse(path, "column 'object_id': expected an id in every row, found 1 nulls")


@pytest.mark.parametrize("kind", FORMATS)
def test_empty_text_is_no_id(tmp_path: Path, kind: str) -> None:
    refuse(write(tmp_path, kind, columns(object_id=["a", "", "c"])), "expected an id in every row, found 1")


@pytest.mark.parametrize("kind", FORMATS)
def test_nulls_among_positions_and_uris_stay_nulls(tmp_path: Path, kind: str) -> None:
    holes: dict[str, Any] = {"ra_deg": [1.0, None, 3.0], "cutout": ["a", None, "c"]}
    if kind in ("fits", "votable"):
        mask = [False, True, False]
        holes = {"ra_deg": MaskedColumn([1.0, 2, 3], mask=mask), "cutout": MaskedColumn(["a", "b", "c"], mask=mask)}
    table = read(write(tmp_path, kind, columns(**holes)))
    ra = table["ra_deg"].to_pylist()
    assert (ra[0], ra[2]) == (1.0, 3.0)
    assert ra[1] is None or np.isnan(ra[1])
    assert table["cutout"].to_pylist() == [f"{tmp_path}/a", None, f"{tmp_path}/c"]


@pytest.mark.parametrize(
    ("kind", "unit"), [("votable", "hourangle"), ("votable", "rad"), ("fits", "rad"), ("fits", "h")]
)
def test_positions_in_another_unit_are_refused(tmp_path: Path, kind: str, unit: str) -> None:
    path = write(tmp_path, kind, columns(ra_deg=Column([1.0, 2.0, 3.0], unit=unit)))
    refuse(path, "column 'ra_deg': expected degrees, found the unit")


def test_degrees_by_any_of_their_names_are_degrees(tmp_path: Path) -> None:
    path = write(tmp_path, "fits", columns(ra_deg=Column([1.0, 2.0, 3.0], unit="deg")))
    for spelling in ("deg", "degree", "degrees"):
        with fits.open(path, mode="update") as units:
            units[1].header["TUNIT2"] = spelling
        assert read(path)["ra_deg"].to_pylist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("values", [["10:30:00", "11:00:00", "12:00:00"], ["10h", "11h", "12h"]])
def test_positions_as_text_are_refused(tmp_path: Path, values: list[str]) -> None:
    refuse(write(tmp_path, "csv", columns(ra_deg=values)), "column 'ra_deg': expected degrees as numbers, found")


@pytest.mark.parametrize("kind", FORMATS)
def test_a_missing_column_is_named_with_the_nearest(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind, columns(dec_deg=None, decl_deg=[1.0, 2.0, 3.0]))
    refuse(path, r"catalogue\.dec_column: expected a column 'dec_deg', found .*; did you mean 'decl_deg'\?")


def test_one_column_cannot_be_two_things(tmp_path: Path) -> None:
    refuse(write(tmp_path, "csv", columns()), "must be four columns", ra_column="dec_deg")


@pytest.mark.parametrize("name", ["embedding", "components", "cutout_size", "Norder"])
def test_an_extra_column_cannot_have_a_name_of_ours(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, "parquet", columns(**{name: [1, 2, 3]}))
    refuse(path, f"voorwerp uses the column name '{name}' itself; rename it")


@pytest.mark.parametrize("header", ["object_id,ra_deg,dec_deg,cutout,object_id", "object_id,ra_deg,dec_deg,cutout,x,x"])
def test_two_columns_of_one_name_are_refused(tmp_path: Path, header: str) -> None:
    row = ",".join(["1", "2", "3", "a.jpg", "5", "6"][: header.count(",") + 1])
    refuse(write_csv(tmp_path, f"{header}\n{row}\n"), "object_id|x")


def test_extra_columns_are_carried_unchanged_in_their_order(tmp_path: Path) -> None:
    extra = {
        "z": pa.array([0.1, None, float("nan")], pa.float32()),
        "a": pa.array(["x", None, ""]),
        "flags": pa.array([True, None, False]),
        "vector": pa.array([[1.0, 2.0], None, []]),
        "when": pa.array([1, 2, None], pa.timestamp("us", "UTC")),
        "category": pa.array(["u", "v", "u"]).dictionary_encode(),
    }
    path = write(tmp_path, "parquet", columns(**extra, magnitude=None, flag=None))
    table = read(path)
    assert table.schema.names[4:] == list(extra)
    written = pq.read_table(path)
    for name in extra:
        assert table.schema.field(name).type == written.schema.field(name).type
        assert str(table[name].to_pylist()) == str(written[name].to_pylist())


@pytest.mark.parametrize("kind", SUFFIXES)
def test_only_the_columns_that_are_asked_for_are_carried_along(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind, columns())
    found = read(path, columns=["magnitude"])
    assert found.column_names == ["object_id", "ra_deg", "dec_deg", "cutout", "magnitude"]
    assert found["magnitude"].to_pylist() == [15.5, 16.25, 17.0]
    assert read(path, columns=[]).column_names == ["object_id", "ra_deg", "dec_deg", "cutout"]
    refuse(
        path,
        r"catalogue.columns: expected a column 'magnitud', found .*; did you mean 'magnitude'",
        columns=["magnitud"],
    )


def test_of_images_in_a_column_only_what_is_asked_for_is_carried_along(tmp_path: Path) -> None:
    pq.write_table(pa.table(columns(cutout=IMAGES)), tmp_path / "c.parquet")
    found = read(tmp_path / "c.parquet", columns=["flag"])
    assert found.column_names == ["object_id", "ra_deg", "dec_deg", "cutout", "flag"]
    assert found["cutout"].to_pylist()[2].endswith("c.parquet#cutout[2]")


def test_large_integers_of_an_extra_csv_column_are_not_rounded(tmp_path: Path) -> None:
    # SDSS specObjID has 20 digits; as a float, neighbours become one.
    text = "object_id,ra_deg,dec_deg,cutout,spec\n1,2,3,a,12345678901234567890\n2,2,3,b,12345678901234567891\n"
    found = read(write_csv(tmp_path, text))["spec"].to_pylist()
    assert [str(value) for value in found] == ["12345678901234567890", "12345678901234567891"]


IMAGES: list[bytes | None] = [b"one", None, b"\xffthree"]
FOUND = [b"one", RejectReason.NOT_FOUND, b"\xffthree"]


def write_parquet(store: Store, path: str, table: dict[str, Any], **settings: Any) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(table), sink, **settings)
    store.write(path, sink.getvalue())


def cutouts_of(catalogue: pa.Table) -> list[bytes | RejectReason]:
    """What the reader finds where a catalogue says that its cutouts are."""
    located, reader = locate_cutouts(catalogue), CutoutReader(CutoutConfig())
    found: list[Any] = []
    for row in range(len(located)):
        try:
            found.append(reader.read(located["cutout"][row].as_py(), pin_of(located, row)))
        except CutoutError as error:
            found.append(error.reason)
    return found


@pytest.mark.parametrize("kind", ["binary", "large_binary", "binary_view", "struct"])
def test_a_column_of_images_becomes_references_to_its_rows(store: Store, kind: str) -> None:
    images = hugging_face(IMAGES) if kind == "struct" else pa.array(IMAGES, getattr(pa, kind)())
    write_parquet(store, "a b#c.parquet", columns(cutout=None, image=images), row_group_size=2)
    table = read(store.uri("a b#c.parquet"), cutout_column="image", cutout_root="/elsewhere")
    assert table.schema.names == ["object_id", "ra_deg", "dec_deg", "cutout", "magnitude", "flag"]
    assert table["cutout"].to_pylist() == [store.uri(f"a b#c.parquet#image[{row}]") for row in range(3)]
    assert table.drop_columns("cutout").to_pydict() == columns(cutout=None)
    assert cutouts_of(table) == FOUND


def test_the_images_of_several_files_in_a_folder_are_found_in_their_files(store: Store) -> None:
    # Five rows in row groups of two, beside what a download brings with it.
    parts = [f"data/train-{part:05}-of-00003.parquet" for part in range(3)]
    for part, path in enumerate(parts):
        ids = list(range(5 * part, 5 * part + 5))
        images = hugging_face([b"image %d" % number for number in ids])
        write_parquet(store, path, {"object_id": ids, "ra_deg": ids, "dec_deg": ids, "image": images}, row_group_size=2)
    for other in ("README.md", ".gitattributes", "data/.cache/x.parquet", "_metadata", "data/_tmp.parquet"):
        store.write(other, b"no Parquet")
    table = read(store.uri(), cutout_column="image")
    assert table["object_id"].to_pylist() == list(range(15))
    assert table["cutout"].to_pylist() == [store.uri(f"{path}#image[{row}]") for path in parts for row in range(5)]
    assert cutouts_of(table) == [b"image %d" % number for number in range(15)]


def test_files_of_one_catalogue_may_hold_their_images_differently(local_store: Store) -> None:
    kinds = [pa.array(IMAGES), pa.array(IMAGES, pa.large_binary()), hugging_face(IMAGES)]
    for number, images in enumerate(kinds):
        write_parquet(local_store, f"{number}.parquet", columns(cutout=images))
    assert cutouts_of(read(local_store.uri())) == FOUND * 3


def test_a_file_without_the_column_of_images_has_rows_without_images(local_store: Store) -> None:
    write_parquet(local_store, "0.parquet", columns(cutout=IMAGES))
    write_parquet(local_store, "1.parquet", columns(cutout=None))
    assert cutouts_of(read(local_store.uri())) == FOUND + [RejectReason.NOT_FOUND] * 3


def test_every_row_of_many_row_groups_has_its_own_reference(local_store: Store) -> None:
    n = 3_000
    images = [b"%d" % number for number in range(n)]
    table = {"object_id": range(n), "ra_deg": np.zeros(n), "dec_deg": np.zeros(n), "cutout": images}
    write_parquet(local_store, "a.parquet", table, row_group_size=7)
    found = read(local_store.uri("a.parquet"))
    assert found["object_id"].to_pylist() == list(range(n))
    assert found["cutout"].to_pylist() == [local_store.uri(f"a.parquet#cutout[{row}]") for row in range(n)]


def test_a_catalogue_of_images_in_hats_has_references_into_its_partitions(store: Store) -> None:
    planned = plan_objects(pa.table(columns(cutout=["one", "two", "three"])), keep_first_duplicate=False).objects
    images = pc.binary_join_element_wise("image of ", planned["cutout"].cast(pa.string()), "").cast(pa.large_binary())
    healpix = planned["_healpix_29"].to_numpy()
    objects = planned.set_column(planned.column_names.index("cutout"), "cutout", images)
    partitions = [Partition(0, int(pixel)) for pixel in np.unique(healpix >> 58)]
    for part in partitions:
        write_table(store, part.path, objects.filter(pa.array(healpix >> 58 == part.pixel)))
    write_hats_metadata(store, "packed", partitions, len(objects))
    table = read(store.uri())
    by_id = dict(zip(table["object_id"].to_pylist(), cutouts_of(table), strict=True))
    assert by_id == {11: b"image of one", 12: b"image of two", 13: b"image of three"}


def test_a_column_of_images_whose_name_a_reference_cannot_hold_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "parquet", columns(cutout=None, **{"a#b": IMAGES}))
    refuse(path, "column 'a#b': a column of images cannot have a # in its name", cutout_column="a#b")


def test_references_as_text_stay_what_they_are(tmp_path: Path) -> None:
    texts = ["s3://b/x.tar#bytes=1-2", "/x.h5#images[3]", "stack.h5/3"]
    found = read(write(tmp_path, "csv", columns(cutout=texts)))["cutout"].to_pylist()
    assert found == [*texts[:2], f"{tmp_path}/stack.h5/3"]


@pytest.mark.parametrize("values", [[b"a", b"b", b"c"], [{"path": "a"}, {"path": "b"}, {"path": "c"}]])
def test_images_that_cannot_be_found_again_are_refused(tmp_path: Path, values: list[Any]) -> None:
    array = pa.array(values, pa.binary(1)) if values[0] == b"a" else pa.array(values)
    refuse(write(tmp_path, "parquet", columns(cutout=array)), "expected URIs|image bytes in Parquet, found")


def test_cutouts_that_are_neither_text_nor_bytes_are_refused(tmp_path: Path) -> None:
    refuse(
        write(tmp_path, "parquet", columns(cutout=[1, 2, 3])),
        r"expected URIs \(text\), or image bytes in Parquet, found int64",
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_a_catalogue_without_rows_is_refused(tmp_path: Path, kind: str) -> None:
    plain = pa.table(columns())
    empty = (
        {field.name: pa.array([], field.type) for field in plain.schema}
        if kind in ("parquet", "csv")
        else dict(Table(columns())[:0].columns)
    )
    refuse(write(tmp_path, kind, empty), "expected at least one galaxy, found an empty catalogue")


GARBAGE: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda data: b"",
    "noise": lambda data: np.random.default_rng(0).bytes(4000),
    "web page": lambda data: b"<html><body>404 Not Found</body></html>",
    "first half": lambda data: data[: len(data) // 2],
    "one bracket": lambda data: b"<",
}


@pytest.mark.fault(22, "files of no known format")
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("damage", GARBAGE)
def test_a_file_that_is_no_such_catalogue_is_refused_by_name(tmp_path: Path, kind: str, damage: str) -> None:
    path = write(tmp_path, kind, columns())
    data = path.read_bytes()
    if kind == "fits":
        data = data[: 2880 * 2 + 100]  # Without the padding at its end, so that half of it is not all of it.
    path.write_bytes(GARBAGE[damage](data))
    refuse(path, str(path))


@pytest.mark.parametrize("card", ["TFORM2", "TUNIT2", "NAXIS2"])
def test_a_damaged_fits_header_is_refused_by_name(tmp_path: Path, card: str) -> None:
    path = write(tmp_path, "fits", columns(ra_deg=Column([1.0, 2.0, 3.0], unit="deg")))
    data = path.read_bytes()
    place = data.index(card.ljust(8).encode() + b"=") + 10
    path.write_bytes(data[:place] + b"'\x7f broken".ljust(30) + data[place + 30 :])
    refuse(path, str(path))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_of_another_format_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    other = FORMATS[(FORMATS.index(kind) + 1) % len(FORMATS)]
    path = write(tmp_path, other, columns()).rename(tmp_path / f"mistaken.{SUFFIXES[kind]}")
    refuse(path, str(path))


def test_a_csv_row_of_another_length_and_other_encodings_are_refused(tmp_path: Path) -> None:
    refuse(write_csv(tmp_path, "object_id,ra_deg,dec_deg,cutout\n1,2,3\n"), "Expected 4 columns, got 3")
    path = tmp_path / "latin.csv"
    path.write_bytes("object_id,ra_deg,dec_deg,cutout\n1,2,3,é.jpg\n".encode("latin-1"))
    refuse(path, "UTF8")


@pytest.mark.parametrize("name", ["nope.csv", "nope.parquet", "folder/nope"])
def test_a_catalogue_that_is_not_there_is_told_apart(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputNotFoundError, match=r"catalogue\.path: expected a catalogue, found nothing at"):
        read(tmp_path / name)


def test_an_empty_folder_is_no_catalogue(tmp_path: Path) -> None:
    refuse(tmp_path, "cannot tell the format")
    refuse(tmp_path, str(tmp_path), format="hats")


@pytest.mark.fault(22, "files of one catalogue with other columns or types")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dec_deg": None}, "second.parquet: expected the columns of .*first.parquet, found no dec_deg"),
        ({"seeing": [1.0, 2.0, 3.0]}, "second.parquet: expected the columns of .*first.parquet, found also seeing"),
        ({"ra_deg": ["1", "2", "3"]}, "second.parquet: column 'ra_deg': expected double .*, found string"),
    ],
)
def test_files_whose_schema_drifts_are_refused_with_file_and_column(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    pq.write_table(pa.table(columns()), tmp_path / "first.parquet")
    pq.write_table(pa.table(columns(**change)), tmp_path / "second.parquet")
    refuse(tmp_path, message)


def test_text_may_be_stored_otherwise_in_another_file_and_a_column_be_empty(tmp_path: Path) -> None:
    table = pa.table(columns())
    pq.write_table(table, tmp_path / "first.parquet")
    place = table.schema.get_field_index("cutout")
    other = table.set_column(place, "cutout", table["cutout"].cast(pa.large_string()))
    place = table.schema.get_field_index("magnitude")
    other = other.set_column(place, "magnitude", pa.nulls(len(table)))
    pq.write_table(other, tmp_path / "second.parquet")
    found = read(tmp_path)
    assert len(found) == 2 * len(table)
    assert found["magnitude"].null_count == len(table)
