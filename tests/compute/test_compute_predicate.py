import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.compute.predicate import Predicate
from schemas.errors import ConfigError

TABLE = pa.table(
    {
        "mag": [17.0, 19.0, None, 16.0],
        "kind": pa.array(["spiral", "ring", None, "x"]).dictionary_encode(),
        "flag": [True, False, None, True],
        "n": [1, 2, 3, None],
    }
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mag < 18", [True, False, False, True]),
        ("mag < 18 and kind in ('spiral', 'ring')", [True, False, False, False]),
        ("kind not in ['x']", [True, True, False, False]),
        ("not (mag == 17)", [False, True, False, True]),
        ("n / 2 == 0.5", [True, False, False, False]),
        ("flag", [True, False, False, True]),
        ("not flag", [False, True, False, False]),
        ("16 <= mag <= 17", [True, False, False, True]),
        ("n is None or mag is None", [False, False, True, True]),
        ("n is not None", [True, True, True, False]),
        ("-n + 2 * n > 4 / 2", [False, False, True, False]),
        ("n == -1 or kind == 'ring'", [False, True, False, False]),
    ],
)
def test_rows_that_meet_a_condition_are_told_and_missing_values_meet_none(text: str, expected: list[bool]) -> None:
    assert Predicate(text).mask(TABLE).to_pylist() == expected


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true') == n",
        "mag.real > 1",
        "mag[0] > 1",
        "[x for x in n]",
        "(lambda: 1)() < n",
        "n if flag else mag",
        "kind in n",
        "n is 3",
        "n ** 2 > 1",
        "n < f'{n}'",
        "n < 1j",
        "n < b'1'",
    ],
)
def test_anything_but_comparisons_is_refused_and_named(text: str) -> None:
    with pytest.raises(ConfigError, match=r"where: .* is not allowed in .*; expected comparisons"):
        Predicate(text).mask(TABLE)


@pytest.mark.parametrize("text", ["", "mag <", "a b"])
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no condition"):
        Predicate(text)


def test_nan_is_missing_as_null_is() -> None:
    table = pa.table({"mag": [17.0, float("nan"), None]})
    for text in ("mag < 20", "not (mag > 20)", "mag != 3", "mag not in [3]", "mag is not None"):
        assert Predicate(text).mask(table).to_pylist() == [True, False, False]


def test_a_condition_on_no_column_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected a condition on columns, found none"):
        Predicate("1 < 2")


def test_an_unknown_column_is_refused_with_one_like_it() -> None:
    with pytest.raises(ConfigError, match=r"expected a column 'magn', found mag, kind, flag, n; did you mean 'mag'\?"):
        Predicate("magn < 1").mask(TABLE)


def test_types_that_do_not_fit_are_refused_with_both() -> None:
    with pytest.raises(ConfigError, match=r"'mag < \"a\"' cannot be asked \(mag is double\)"):
        Predicate('mag < "a"').mask(TABLE)


def test_the_columns_that_are_needed_are_listed() -> None:
    assert Predicate("mag < 3 and (n > 1 or mag > 7)").columns == ("mag", "n")


operands = st.one_of(st.sampled_from(["a", "b"]), st.integers(-5, 5).map(str))
comparisons = st.builds(
    lambda left, operator, right: f"{left} {operator} {right}",
    st.sampled_from(["a", "b", "a + b", "-a", "a * 2"]),
    st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
    operands,
)
conditions = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.builds(lambda x, y: f"({x}) and ({y})", inner, inner),
        st.builds(lambda x, y: f"({x}) or ({y})", inner, inner),
        st.builds(lambda x: f"not ({x})", inner),
    ),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(text=conditions, seed=st.integers(0, 1000))
def test_conditions_mean_what_they_mean_in_python(text: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    a, b = random.integers(-5, 6, (2, 20))
    expected = [bool(eval(text, {"a": int(x), "b": int(y)})) for x, y in zip(a, b, strict=True)]  # noqa: S307
    assert Predicate(text).mask(pa.table({"a": a, "b": b})).to_pylist() == expected
