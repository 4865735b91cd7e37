"""`make bench-train`: does pretraining on votes help, on simulated and on real galaxies; and what does training cost?

Nothing is tuned towards an outcome: settings are in these files, and what comes out is what is written. Everything made
is kept in build/bench-train, so that a run that was stopped goes on; delete the folder to begin anew. The real galaxies
are looked for in VOORWERP_BENCH_DATA, else in ../shared/data beside the repository.
"""

import argparse
import sys

from tests.benchmarks import train_real, train_simulated, training_cost
from tests.benchmarks.galaxies import missing
from tests.benchmarks.process import CommandError
from tests.benchmarks.table import finish, machine
from tests.benchmarks.train_simulated import WORK

PARTS = {
    "simulated": train_simulated.measure,
    "real": train_real.measure,
    "cost": lambda: training_cost.measure(WORK),
}


def main() -> int:
    """Run the parts that are named, or all; return the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "parts",
        nargs="*",
        choices=[*PARTS, []],
        metavar="PART",
        help=f"{', '.join(PARTS)}: each writes a page of results; all when none",
    )
    named = options.parse_args().parts or list(PARTS)
    if "real" in named and (complaint := missing(["sdss_gz1", "decals_rings"])):
        print(complaint)
        return 2
    WORK.mkdir(parents=True, exist_ok=True)
    codes = []
    for name in named:
        started_on = machine()
        try:
            tables, bars = PARTS[name]()
        except CommandError as error:
            print(error)
            return 1
        codes.append(finish(f"train-{name}", f"make bench-train PARTS={name}", started_on, tables, bars))
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
