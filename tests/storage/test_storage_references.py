"""References: what is written is what is read, whatever the names; and which order of reading costs too much."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.storage.references import (
    NEARBY_ROWS,
    Bytes,
    Cell,
    Reference,
    bytes_of,
    cell_of,
    cells_of,
    files_of,
    in_containers,
    is_stack,
    parse,
    scattered,
    split_tar_path,
    stack_reference,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
FILES = st.one_of(TEXT, st.sampled_from(["s3://b/a b/é#1[2].tar", "/a#bytes=1-2", "/x#c[0]", "#", "[", "a\nb"]))
COLUMNS = TEXT.filter(lambda name: "#" not in name)
PLACES = st.integers(0, 10**17)


@given(FILES, PLACES, PLACES)
@example("/a.tar", 512, 0)
def test_a_run_of_bytes_is_read_as_it_is_written(file: str, start: int, n_bytes: int) -> None:
    piece = Bytes(start, max(n_bytes, 1 - start))
    assert parse(bytes_of(file, piece)) == Reference(file, piece)


@given(FILES, COLUMNS, PLACES)
@example("/a.parquet", "image[0]", 3)
@example("/a.parquet", "bytes=1-2", 3)
@example("/a b#c.parquet", "a.b c", 0)
def test_a_cell_is_read_as_it_is_written(file: str, name: str, row: int) -> None:
    assert parse(cell_of(file, name, row)) == Reference(file, Cell(name, row))


@given(FILES, COLUMNS, st.integers(0, 5))
def test_the_cells_of_a_column_are_its_cells_one_by_one(file: str, name: str, n: int) -> None:
    cells = cells_of(file, name, n)
    assert cells.type == pa.string()
    assert cells.to_pylist() == [cell_of(file, name, row) for row in range(n)]


@given(st.lists(st.one_of(FILES, st.builds(cell_of, FILES, COLUMNS, PLACES), st.just("/a#b[1]#bytes=0-5"), st.none())))
def test_the_files_of_many_references_are_those_of_one_after_the_other(texts: list[str | None]) -> None:
    files = files_of(pa.array(texts, pa.string()))
    assert files.to_pylist() == [None if text is None else parse(text).file for text in texts]


@given(
    st.lists(st.one_of(TEXT, st.sampled_from(["/a.tar/b", "/a.tar/", "a.h5/7", ".h5/7", "/a.hdf5/x", "a\n.tar/\nb"])))
)
def test_paths_through_containers_are_those_that_are_taken_apart(texts: list[str]) -> None:
    expected = [split_tar_path(text) is not None or stack_reference(text) != text for text in texts]
    assert in_containers(pa.array(texts, pa.string())).to_pylist() == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/a.jpg",
        "s3://bucket/a b/é.jpg",
        "/a#b.jpg",
        "/a[3].jpg",
        "/a[3]",
        "/a#[3]",
        "#a[3]",
        "#bytes=1-2",
        "/a#bytes=1-",
        "/a#bytes=-2",
        "/a#bytes=1-2 ",
        "/a#bytes=1-2\n",
        "/a#bytes=-1--2",
        "/a#bytes=0x1-0x2",
        "/a#bytes=" + "1" * 19 + "-2",
        "/a#b[]",
        "/a#b[-1]",
        "/a#b[+1]",
        "/a#b[1.0]",
        "/a#b[1]]",
        "/a#b[" + "1" * 19 + "]",
        "/a#b[٣]",
        "/a#bytes=٣-٤",
    ],
)
def test_what_has_the_form_of_no_piece_is_a_file(text: str) -> None:
    assert parse(text) == Reference(text, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/a.tar#bytes=512-1023", Reference("/a.tar", Bytes(512, 512))),
        ("/a.tar#bytes=7-7", Reference("/a.tar", Bytes(7, 1))),
        ("/a.tar#bytes=9-8", Reference("/a.tar", Bytes(9, 0))),
        ("/a.tar#bytes=9-3", Reference("/a.tar", Bytes(9, -5))),
        ("/a#b.h5#images[007]", Reference("/a#b.h5", Cell("images", 7))),
        ("s3://b/x.parquet#a b[1]", Reference("s3://b/x.parquet", Cell("a b", 1))),
        ("/x.h5#deep/er/images[1]", Reference("/x.h5", Cell("deep/er/images", 1))),
    ],
)
def test_references_are_split_into_their_parts(text: str, expected: Reference) -> None:
    assert parse(text) == expected


@given(TEXT)
def test_any_text_is_a_reference_to_something(text: str) -> None:
    file, piece = parse(text)
    assert text.startswith(file)
    assert piece is not None or file == text


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/d/a.tar/b.jpg", ("/d/a.tar", "b.jpg")),
        ("s3://b/a.tar/c/d.jpg", ("s3://b/a.tar", "c/d.jpg")),
        ("/a.tar/b.tar/c.jpg", ("/a.tar", "b.tar/c.jpg")),
        ("/a.tar//b.jpg", ("/a.tar", "/b.jpg")),
        ("/a.tar/./b#c[1].jpg", ("/a.tar", "./b#c[1].jpg")),
        ("a.tar/é\n", ("a.tar", "é\n")),
        ("/a.tar", None),
        ("/a.tar/", None),
        ("/a.tar.gz/b.jpg", None),
        ("/atar/b.jpg", None),
        (".tar/b.jpg", None),
        ("", None),
    ],
)
def test_a_path_through_a_tar_is_split_behind_the_tar(uri: str, expected: tuple[str, str] | None) -> None:
    assert split_tar_path(uri) == expected


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/a.h5/17", "/a.h5#images[17]"),
        ("s3://b/a b.hdf5/0", "s3://b/a b.hdf5#images[0]"),
        ("/a.h5/b.h5/3", "/a.h5/b.h5#images[3]"),
        ("/a.h5/x", "/a.h5/x"),
        ("/a.h5/-1", "/a.h5/-1"),
        ("/a.h5/٣", "/a.h5/٣"),
        ("/a.h5/1/2", "/a.h5/1/2"),
        ("/a.h5", "/a.h5"),
        ("/a.h5x/1", "/a.h5x/1"),
        ("/a.h5#other[1]", "/a.h5#other[1]"),
    ],
)
def test_a_number_below_a_stack_is_a_row_of_its_images(uri: str, expected: str) -> None:
    assert stack_reference(uri) == expected


def test_stacks_are_known_by_their_names() -> None:
    assert [is_stack(name) for name in ("/a.h5", "/a.hdf5", "/a.h5.parquet", "/h5", "")] == [True, True] + [False] * 3


N = 2_000
SHUFFLED = np.random.default_rng(0).permutation(N)
IN_ORDER = [cell_of("/a.parquet", "image", row) for row in range(N)]


def is_scattered(references: list[str | None]) -> bool:
    half = len(references) // 2
    chunks = [pa.array(part, pa.string()) for part in (references[:half], references[half:])]
    return scattered(pa.chunked_array(chunks))


@pytest.mark.parametrize(
    "references",
    [
        IN_ORDER,
        IN_ORDER[::-1],
        [cell_of(f"/{row % 2}.parquet", "image", row // 2) for row in range(N)],
        [f"/{number}.jpg" for number in SHUFFLED],
        [bytes_of("/a.tar", Bytes(512 * int(number), 512)) for number in SHUFFLED],
        [cell_of("/a.h5", "images", row) for row in SHUFFLED],
        [f"/a[{row}]" for row in SHUFFLED * 99],
        IN_ORDER[:1],
        IN_ORDER[:: N - 1],
        [None] * N,
        [],
    ],
    ids=["in order", "reversed", "two in turn", "files", "tar", "stack", "brackets", "one", "two", "nulls", "nothing"],
)
def test_an_order_that_reads_a_row_group_for_many_cutouts_is_not_scattered(references: list[str | None]) -> None:
    assert not is_scattered(references)


@pytest.mark.parametrize(
    "references",
    [
        [IN_ORDER[row] for row in SHUFFLED],
        [cell_of("/a.parquet", "image", row * NEARBY_ROWS) for row in range(N)],
        [cell_of(f"/{row % 500}.parquet", "image", row // 500) for row in range(N)],
        [cell_of("/a.parquet", f"image {row % 500}", row // 500) for row in range(N)],
        [IN_ORDER[row] if row % 3 else None for row in SHUFFLED],
        [cell_of("/a#b\n.parquet", "image", row) for row in SHUFFLED],
        [cell_of("/a.h5", "images", 0), *(IN_ORDER[row] for row in SHUFFLED)],
    ],
    ids=["shuffled", "far apart", "many files", "many columns", "with nulls", "odd name", "behind a stack"],
)
def test_an_order_that_reads_a_row_group_for_every_few_cutouts_is_scattered(references: list[str | None]) -> None:
    assert is_scattered(references)


def test_a_few_scattered_cells_among_many_files_do_not_matter() -> None:
    cells = [cell_of("/a.parquet", "image", row * NEARBY_ROWS) for row in range(100)]
    assert not is_scattered(cells + [f"/{number}.jpg" for number in range(N)])
