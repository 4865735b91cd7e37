"""Why a catalogue row has no embedding: a closed list."""

from enum import StrEnum


class RejectReason(StrEnum):
    """Reason in the `rejects` table. Every planned row is either embedded or rejected with one of these."""

    BAD_COORD = "bad_coord"
    """RA or Dec is null, NaN, infinite or outside [0, 360) x [-90, 90] degrees."""
    DUPLICATE_ID = "duplicate_id"
    """An earlier row of the catalogue has the same id (only with `on_duplicate: first`)."""
    NOT_FOUND = "not_found"
    """The cutout's URI is null or nothing is stored there."""
    DECODE_ERROR = "decode_error"
    """The bytes are not a readable JPEG, PNG or FITS image."""
    TOO_LARGE = "too_large"
    """The cutout has more bytes or pixels than the job allows."""
    SHAPE = "shape"
    """The image is empty, has too few pixels, or a number of bands that the stretch or the preset cannot use."""
    NAN_PIXELS = "nan_pixels"
    """The image holds NaN or infinite pixels."""
    NAN_EMBEDDING = "nan_embedding"
    """The encoder returned NaN or infinity for finite pixels."""
