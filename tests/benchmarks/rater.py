"""A rater of `make bench-rank`: rates objects one after the other, and prints how many ratings are acknowledged."""

import sys

from engine.storage.artefacts import utc_now
from engine.storage.campaigns import open_campaigns
from schemas.campaign import RatingEvent

database, rater, first, last = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
store = open_campaigns(database)
for number in range(first, last):
    event = RatingEvent(
        request=f"{rater}-{number}", rater=f"r{rater}", object_id=str(number), rating=number % 6, at_utc=utc_now()
    )
    store.record("kills", [event])
    print(number + 1, flush=True)
