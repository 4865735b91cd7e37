"""A release under random faults of workers, nodes, drivers and the store, whose output has to be that of a calm one.

    python -m tests.faults.chaos --seed 1 --faults 12

Which faults come in which order, and after what pauses, is drawn from the seed; where they meet the run is up to the
machine. Catalogue, cutouts and output lie in an object store behind a proxy; two nodes of a cluster do the work.
"""

import argparse
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import timm
import torch
from safetensors.torch import save_file

from engine.storage.artefacts import current_manifest
from engine.storage.hats_catalogue import read_columns
from engine.storage.parquet import as_matrix
from engine.storage.store import Store
from jobs import verify
from schemas import paths
from schemas.config import ReleaseJob
from tests.benchmarks.table import Bar, Table, finish, machine
from tests.conftest import TINY_ARCHITECTURE, make_job, write_survey
from tests.faults.fault_proxy import FaultProxy, hang, reset_after, status

BUCKET = "chaos"
SLOW_S = 0.1
"""That the loading of each cutout takes longer, so that faults meet a run at work."""
MEAN_PAUSE_S = 5.0
MOST_S = 300.0
"""For which a driver may take to end when it is left in peace."""
STORE_FAULT_S = 4.0
VOORWERP = str(Path(sys.executable).with_name("voorwerp"))


class Chaos:
    """A run and what is done to it."""

    def __init__(self, seed: int, job: Path, proxy: FaultProxy, environment: dict[str, str]) -> None:
        self._random = random.Random(seed)
        self._job, self._proxy, self._environment = job, proxy, environment
        self.fired: Counter[str] = Counter()
        self.ended: Counter[int] = Counter()
        self._names: list[str] = []
        self._n_nodes = 0
        self._nodes = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("nodes.py"))],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._address = self._answer()["address"]
        self._add_node()
        self._add_node()
        self._driver = self._begin()

    def run(self, n_faults: int) -> None:
        """Bring so many faults about, then let the run end.

        Raises
        ------
        RuntimeError
            It does not end well when it is left in peace.
        """
        faults: dict[str, Callable[[], bool]] = {
            "worker killed": self._kill_worker,
            "node killed, another added": self._kill_node,
            "driver killed": self._kill_driver,
            "driver terminated": self._terminate_driver,
            "store: bursts of 503": self._burst,
            "store: answers to writes lost": self._lose_answers,
            "store: no answer": self._hang,
            "store: away": self._away,
        }
        while self.fired.total() < n_faults:
            time.sleep(self._random.expovariate(1 / MEAN_PAUSE_S))
            if self._driver.poll() == 0:
                break
            self._go_on()
            name = self._random.choice(list(faults))
            if faults[name]():
                self.fired[name] += 1
                print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
        self._proxy.heal()
        until = time.monotonic() + MOST_S
        while self._driver.poll() != 0:
            if time.monotonic() > until:
                raise RuntimeError(f"expected the release to end within {MOST_S:g} s of peace, found it at work")
            self._go_on()
            time.sleep(0.5)
        self.ended[0] += 1

    def close(self) -> None:
        """End all processes."""
        for process in (self._driver, self._nodes):
            family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.kill()
            for member in family:
                with suppress(psutil.Error):
                    member.kill()

    def _begin(self) -> subprocess.Popen[str]:
        environment = {**self._environment, "RAY_ADDRESS": self._address}
        with (self._job.parent / "said").open("a") as said:
            return subprocess.Popen([VOORWERP, "release", str(self._job)], env=environment, stderr=said, text=True)

    def _go_on(self) -> None:
        """Run the command again where it ended otherwise than well."""
        code = self._driver.poll()
        if code not in (None, 0):
            self.ended[code] += 1
            self._driver = self._begin()

    def _tell(self, **what: object) -> None:
        assert self._nodes.stdin
        print(json.dumps(what), file=self._nodes.stdin, flush=True)
        self._answer()

    def _answer(self) -> dict[str, str]:
        assert self._nodes.stdout
        return json.loads(self._nodes.stdout.readline())

    def _add_node(self) -> None:
        self._n_nodes += 1
        self._names.append(f"node {self._n_nodes}")
        self._tell(add=self._names[-1], num_cpus=2)

    def _kill_worker(self) -> bool:
        for member in self._random.sample(found := self._workers(), len(found)):
            with suppress(psutil.Error):
                member.kill()
                return True
        return False

    def _workers(self) -> list[psutil.Process]:
        found = []
        for member in psutil.Process(self._nodes.pid).children(recursive=True):
            with suppress(psutil.Error):
                if "Map(" in " ".join(member.cmdline()):
                    found.append(member)
        return sorted(found, key=lambda process: process.pid)

    def _kill_node(self) -> bool:
        name = self._random.choice(self._names)
        self._names.remove(name)
        self._tell(lose=name)
        self._add_node()
        return True

    def _kill_driver(self) -> bool:
        self._driver.kill()
        self._driver.wait()
        return True

    def _terminate_driver(self) -> bool:
        self._driver.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._driver.wait(60)
        return True

    def _burst(self) -> bool:
        rule = self._proxy.add(status(503), times=self._random.randint(2, 8))
        return self._met(lambda: rule.fired)

    def _lose_answers(self) -> bool:
        rule = self._proxy.add(reset_after, "PUT", times=self._random.randint(1, 4))
        return self._met(lambda: rule.fired)

    def _hang(self) -> bool:
        rule = self._proxy.add(hang, times=self._random.randint(1, 4))
        return self._met(lambda: rule.fired)

    def _away(self) -> bool:
        rule = self._proxy.add(status(503), times=None)
        return self._met(lambda: rule.fired)

    def _met(self, fired: Callable[[], int]) -> bool:
        time.sleep(STORE_FAULT_S)
        self._proxy.heal()
        return fired() > 0


def vectors(output: str) -> dict[int, np.ndarray]:
    """Embeddings of a finished release, by id."""
    store = Store(output)
    folder = store.below(paths.artefact("embeddings", current_manifest(store, "embeddings").id))
    table = read_columns(folder, ["object_id", "embedding"])
    return dict(zip(table["object_id"].to_pylist(), as_matrix(table["embedding"]), strict=True))


def difference(found: dict[int, np.ndarray], expected: dict[int, np.ndarray]) -> float:
    """Largest difference of any value, over the largest value of its embedding; infinite where ids differ."""
    if found.keys() != expected.keys():
        return float("inf")
    return max(float(np.abs(found[one] - vector).max() / np.abs(vector).max()) for one, vector in expected.items())


@contextmanager
def store_server() -> Iterator[str]:
    """An S3 server in this process, with an empty bucket; AWS_* variables point to it."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ.update(settings, AWS_ACCESS_KEY_ID="testing", AWS_SECRET_ACCESS_KEY="testing")
    import s3fs

    s3fs.S3FileSystem().mkdir(BUCKET)
    yield settings["AWS_ENDPOINT_URL"]
    server.stop()


def write_inputs(folder: Path, n: int) -> tuple[str, Path]:
    """Write a survey to the store, and weights of an encoder to the folder."""
    inputs = Store(f"s3://{BUCKET}/in")
    catalogue = write_survey(folder / "survey", n)
    for path in [catalogue, *sorted((catalogue.parent / "cutouts").iterdir())]:
        inputs.write(str(path.relative_to(catalogue.parent)), path.read_bytes())
    torch.manual_seed(7)
    save_file(timm.create_model(TINY_ARCHITECTURE, in_chans=1).state_dict(), folder / "tiny.safetensors")
    return inputs.uri("catalogue.csv"), folder / "tiny.safetensors"


def write_job(path: Path, job: ReleaseJob) -> Path:
    """Write a job to a file."""
    path.write_text(job.model_dump_json())
    return path


def main() -> int:
    """Run both releases, write what happened to results/chaos.md, return whether something was lost."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--faults", type=int, default=12, help="how many; each costs some seconds")
    options.add_argument("--cutouts", type=int, default=300)
    given = options.parse_args()
    started_on = machine()
    with store_server() as server, FaultProxy(server) as proxy, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        catalogue, weights = write_inputs(folder, given.cutouts)
        outputs = {kind: f"s3://{BUCKET}/{kind}" for kind in ("calm", "chaos")}
        jobs = {kind: make_job(catalogue, output, weights, embed={"workers": 2}) for kind, output in outputs.items()}
        subprocess.run([VOORWERP, "release", write_job(folder / "calm.json", jobs["calm"])], check=True)
        sabotage = str(Path(__file__).with_name("sabotage"))
        environment = os.environ | {
            "AWS_ENDPOINT_URL": proxy.url,
            "PYTHONPATH": os.pathsep.join(filter(None, [sabotage, os.environ.get("PYTHONPATH")])),
            "VOORWERP_TEST_SABOTAGE": json.dumps({"slow_s": SLOW_S}),
        }
        started = time.monotonic()
        chaos = Chaos(given.seed, write_job(folder / "chaos.json", jobs["chaos"]), proxy, environment)
        try:
            chaos.run(given.faults)
        except BaseException:
            print((folder / "said").read_text()[-5000:])
            raise
        finally:
            chaos.close()
        rows = [[fault, str(count)] for fault, count in sorted(chaos.fired.items())]
        rows += [[f"the command ended with {code}", str(count)] for code, count in sorted(chaos.ended.items())]
        lost = current_manifest(Store(outputs["chaos"]), "embeddings").detail["attempts_lost"]
        rows += [["attempts at units lost", str(lost)], ["seconds", f"{time.monotonic() - started:.0f}"]]
        apart = difference(vectors(outputs["chaos"]), vectors(outputs["calm"]))
        table = Table(f"{given.cutouts:,} cutouts, seed {given.seed}", ("what happened", "times"), rows)
        bars = [
            Bar("largest difference from the calm release", apart, "<=", 1e-5),
            Bar("verified", float(verify.run(outputs["chaos"])), ">=", 1),
        ]
        command = f"make chaos CHAOS='--seed {given.seed} --faults {given.faults}'"
        return finish("chaos", command, started_on, [table], bars)


if __name__ == "__main__":
    sys.exit(main())
