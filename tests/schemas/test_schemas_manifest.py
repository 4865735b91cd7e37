"""Identities: equal content gives equal names, on every machine and for ever."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.manifest import FORMAT, Manifest, canonical, content_id, identity_id

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_an_identity_keeps_its_name_for_ever() -> None:
    # Outputs of earlier versions are found by these names; whoever changes one raises FORMAT.
    identity = {"architecture": "efficientnet_b0", "bands": 1, "weights_sha256": "00"}
    assert identity_id("encoder", identity) == "8162e8d6396db98d"
    # printf '{"format":2,"identity":{},"kind":"plan"}' | sha256sum
    assert identity_id("plan", {}) == "10f0edf70e0e47b8"


@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_the_order_of_keys_does_not_change_a_name(value: dict[str, object]) -> None:
    assert content_id(dict(reversed(value.items()))) == content_id(value)


@given(json_values)
def test_canonical_bytes_hold_the_whole_value(value: object) -> None:
    assert json.loads(canonical(value)) == value


def test_one_identity_under_two_kinds_has_two_names() -> None:
    assert identity_id("plan", {"a": 1}) != identity_id("index", {"a": 1})


def manifest(**changes: object) -> dict[str, object]:
    return {
        "kind": "plan",
        "id": "x",
        "identity": {},
        "counts": {},
        "files": [],
        "versions": {},
        "durations_s": {},
        "created_utc": "2026-01-01T00:00:00+00:00",
        **changes,
    }


@pytest.mark.parametrize("changes", [{"format": 1}, {"kind": "plans"}, {"extra": 1}, {"counts": {"planned": "many"}}])
def test_a_manifest_of_another_format_kind_or_with_unknown_keys_is_refused(changes: dict[str, object]) -> None:
    assert Manifest.model_validate(manifest()).format == FORMAT
    with pytest.raises(ValidationError):
        Manifest.model_validate(manifest(**changes))
