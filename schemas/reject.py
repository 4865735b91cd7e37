"""Why a catalogue row has no embedding: a closed list."""

from enum import StrEnum
from typing import Self


class RejectReason(StrEnum):
    """Reason in the `rejects` table. Every planned row is either embedded or rejected with one of these."""

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Self:
        """Make a member that is its value and carries its meaning."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    BAD_COORD = "bad_coord", "RA or Dec is null, NaN, infinite or outside [0, 360) x [-90, 90] degrees"
    DUPLICATE_ID = "duplicate_id", "an earlier row of the catalogue has the same id (with `on_duplicate: first`)"
    NOT_FOUND = "not_found", "the cutout's URI is null, or nothing is stored there, or its container lacks it"
    CHANGED = "changed", "the cutout's file, or the container that holds it, was replaced after it was planned"
    INTEGRITY = "integrity", "the bytes read, twice, were fewer than there should be, or not those of their checksum"
    DECODE_ERROR = (
        "decode_error",
        "the bytes are not a readable JPEG, PNG or FITS image, or not in a readable container",
    )
    TOO_LARGE = "too_large", "the cutout has more bytes or pixels than the job allows"
    SHAPE = "shape", "the image is empty, too small, or has bands that the stretch or the preset cannot use"
    NAN_PIXELS = "nan_pixels", "the image holds NaN or infinite pixels"
    WORKER_CRASH = "worker_crash", "reading, decoding or encoding this cutout killed its process, alone as well"
    TIMEOUT = "timeout", "reading and decoding took longer than `cutouts.max_seconds`"
    NAN_EMBEDDING = "nan_embedding", "the encoder returned NaN or infinity for finite pixels"


WITHOUT_PLACE = frozenset({RejectReason.BAD_COORD, RejectReason.DUPLICATE_ID})
"""Reasons of planning: such a row is in no plan."""
