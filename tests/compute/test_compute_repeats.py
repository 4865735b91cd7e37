"""Vectors that are there more than once, bit by bit, against a dictionary."""

from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engine.compute.repeats import repeated_rows

few_values = st.sampled_from([0.0, -0.0, 1.0, 1.0 + 2.0**-23, -3.5])


@given(arrays(np.float32, st.tuples(st.integers(0, 40), st.integers(1, 3)), elements=few_values))
@settings(max_examples=150, deadline=None)
def test_rows_are_grouped_as_a_dictionary_groups_them(vectors: np.ndarray) -> None:
    groups = defaultdict(list)
    for row, vector in enumerate((vectors + np.float32(0)).tolist()):
        groups[tuple(vector)].append(row)
    several = sorted((rows for rows in groups.values() if len(rows) > 1), key=lambda rows: -len(rows))
    found = repeated_rows(vectors, most_examples=2, most_rows=3)
    assert (found.n_groups, found.n_rows) == (len(several), sum(map(len, several)))
    assert found.largest == max(map(len, several), default=0)
    assert [size for size, _ in found.examples] == [len(rows) for rows in several[:2]]
    for size, rows in found.examples:
        assert rows.tolist() in [one[:3] for one in several if len(one) == size]
