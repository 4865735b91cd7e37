"""What was asked and what came of it, in numbers that have to add up before an answer is published."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from engine.compute.digest import add_digests
from schemas.errors import IntegrityError
from schemas.manifest import Commit
from schemas.tables import OK


class Counts(NamedTuple):
    """What was asked and what came of it."""

    planned: int
    by_status: Counter[str]

    def check(self) -> None:
        """Refuse to publish an answer that lost something.

        Raises
        ------
        IntegrityError
            What was planned is not what was answered and what was not, together.
        """
        if self.planned != self.by_status.total():
            raise IntegrityError(f"expected {self.planned:,} answers or reasons, found {dict(self.by_status)}")

    @property
    def record(self) -> dict[str, int]:
        """Return the counts for a manifest."""
        others = {status: n for status, n in self.by_status.items() if status != OK}
        return {"planned": self.planned, "answered": self.by_status[OK], **others}

    def __str__(self) -> str:
        others = sorted((status, n) for status, n in self.by_status.items() if status != OK and n)
        return f"{self.planned:,} planned = {self.by_status[OK]:,} answered" + "".join(
            f" + {n:,} {status}" for status, n in others
        )


def counted(
    commits: Sequence[Commit], planned: int, unanswered: Counter[str] | None = None, asked_digest: str | None = None
) -> Counts:
    """Count answers by status, and check that nothing is missing.

    Parameters
    ----------
    commits : sequence of Commit
    planned : int
    unanswered : Counter, optional
        What no unit was asked, by status.
    asked_digest : str, optional
        Of what the units were to answer.

    Raises
    ------
    IntegrityError
        As of `Counts.check`, or the units answered something else than was asked.
    """
    digests = [digest for commit in commits for digest in (commit.ok_digest, commit.rejected_digest)]
    if asked_digest not in (None, add_digests(digests)):
        raise IntegrityError("the units answered other queries than were asked; delete the work folder and run again")
    statuses = Counter({OK: sum(commit.n_ok for commit in commits)}) + (unanswered or Counter())
    for commit in commits:
        statuses.update(commit.rejected)
    counts = Counts(planned, statuses)
    counts.check()
    return counts
