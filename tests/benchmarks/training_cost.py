"""What training costs: against the bare network, and against zoobot's fine-tuning. Part of `make bench-train`."""

import subprocess
import tarfile
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from engine.cluster.canvases import canvas_task
from engine.cluster.loading import threaded
from engine.cluster.training import Inputs, TrainTask, build, initial, predict_rows, train_one
from engine.compute.encoder import encoder_tensors
from engine.compute.head import fit_head, make_head, paper_schedule
from engine.compute.labels import loss_of
from engine.compute.network import Network
from engine.compute.training import Settings, in_memory, judge
from engine.storage.pins import locate_cutouts
from engine.storage.weights import LITE0, read_weights
from schemas.config import CutoutConfig
from schemas.preset import Preset
from tests.benchmarks.embed import ZOOBOT, ZOOBOT_VERSION, install_zoobot
from tests.benchmarks.process import CommandError
from tests.benchmarks.table import Bar, Table, console
from tests.benchmarks.train_simulated import simulated_rings

ARCHITECTURE, THREADS = "efficientnet_lite0", 2
PRESET = Preset(bands="rgb", resize=64, crop=56, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
N_TRAINING, N_VALIDATION = 800, 400
EPOCHS, BATCH, RATE, DECAY = 5, 64, 1e-4, 0.75
"""zoobot's own defaults for the rate and its decay from layer to layer."""
ROUNDS = 3
SHARE_OF_BARE, TIMES_ZOOBOT = 0.9, 1.0


def measure(work: Path) -> tuple[list[Table], list[Bar]]:
    """Measure on simulated rings, which are kept in `work` as single files; some minutes."""
    torch.set_num_threads(THREADS)
    install_zoobot()
    objects, truth = _rings(simulated_rings(), work / "ring-files")
    pipeline = _pipeline(objects, truth)
    zoobot = _zoobot(work, objects, truth)
    tables = [pipeline[0], zoobot[0]]
    return tables, [*pipeline[1], *zoobot[1]]


def _rings(survey: Path, folder: Path) -> tuple[pa.Table, np.ndarray]:
    """Cutouts as single files, as zoobot wants them, and whether each is a ring."""
    if not folder.exists():
        folder.mkdir()
        for path in sorted((survey / "cutouts").glob("*.tar")):
            with tarfile.open(path) as tar:
                tar.extractall(folder, filter="data")
    truth = pq.read_table(survey / "truth.parquet", columns=["object_id", "kind"]).to_pandas()
    files = {int(path.stem): path for path in folder.rglob("*.jpg")}
    truth = truth[: N_TRAINING + N_VALIDATION]
    objects = pa.table(
        {"object_id": truth["object_id"], "cutout": [str(files[object_id]) for object_id in truth["object_id"]]}
    )
    return locate_cutouts(objects), (truth["kind"] == "ring").to_numpy().astype(np.float32)[:, np.newaxis]


def _load(objects: pa.Table) -> np.ndarray:
    with threaded(canvas_task(PRESET, CutoutConfig()), THREADS) as loader:
        return loader(objects)().flat().astype(np.float16)


def _task(settings: Settings, depth: str | None) -> TrainTask:
    return TrainTask(
        output="",
        run_id="",
        architecture=ARCHITECTURE,
        load=canvas_task(PRESET, CutoutConfig()),
        crop=PRESET.crop,
        head="linear",
        n_outputs=1,
        dropout=0.2,
        questions=(),
        kind="binary",
        depth=depth,
        layer_decay=None if depth is None else DECAY,
        settings=settings,
    )


def _pipeline(objects: pa.Table, truth: np.ndarray) -> tuple[Table, list[Bar]]:
    """Training with views turned at random, over the same steps on one batch of random numbers."""
    canvases, rows = _load(objects), np.arange(N_TRAINING)
    state = initial(ARCHITECTURE, PRESET.n_bands, "linear", 1, 0, None)
    ours, bare = [], []
    for number in range(ROUNDS + 1):
        settings = Settings(EPOCHS, EPOCHS, BATCH, 1e-3, number)
        task = _task(settings, None)
        network = build(task, state)
        bare.append(_bare(network))
        started = perf_counter()
        train_one(task, Inputs(canvases, None, truth, rows, rows[:1]), state)
        steps = EPOCHS * (len(rows) // BATCH)
        ours.append(steps * BATCH / (perf_counter() - started))
    ours_per_s, bare_per_s = median(ours[1:]), median(bare[1:])  # The first round warms up.
    share = ours_per_s / bare_per_s
    table = Table(
        f"Training {ARCHITECTURE} at {PRESET.crop} px on {THREADS} cores, batches of {BATCH}",
        ("what", "cutouts/s", "of bare"),
        [
            ["bare steps on random numbers", f"{bare_per_s:.0f}", "1.00"],
            ["voorwerp, cutouts in memory, turned at random", f"{ours_per_s:.0f}", f"{share:.2f}"],
        ],
        f"Medians of {ROUNDS} rounds in turns, {EPOCHS} epochs of {N_TRAINING}, what their ends cost included. "
        "Where cutouts have no room in memory they are decoded in every epoch, by other workers: on cores that "
        "these share with the network that costs what decoding costs.",
    )
    return table, [Bar("training: cutouts/s / bare steps", share, ">=", SHARE_OF_BARE)]


def _bare(network: Network) -> float:
    network.train()
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    views = torch.rand(BATCH, PRESET.n_bands, PRESET.crop, PRESET.crop).contiguous(memory_format=torch.channels_last)
    targets = torch.ones(BATCH, 1)
    steps = EPOCHS * (N_TRAINING // BATCH)
    started = perf_counter()
    for _ in range(steps):
        optimiser.zero_grad(set_to_none=True)
        torch.nn.functional.binary_cross_entropy_with_logits(network(views), targets).backward()
        optimiser.step()
    return steps * BATCH / (perf_counter() - started)


def _zoobot(work: Path, objects: pa.Table, truth: np.ndarray) -> tuple[Table, list[Bar]]:
    """The same encoder, images and epochs, from files on disk to a trained network."""
    weights = encoder_tensors(ARCHITECTURE, 3, read_weights(LITE0).tensors, by_order=True)
    ours_s, ours_loss = _ours(objects, truth, weights)
    from safetensors.torch import save_file

    save_file(weights, work / "zoobot-weights.safetensors")
    table = pd.DataFrame(
        {
            "id_str": objects["object_id"].to_pylist(),
            "file_loc": objects["cutout"].to_pylist(),
            "ring": truth[:, 0].astype(int),
        }
    )
    table.to_csv(work / "zoobot.csv", index=False)
    script = Path(__file__).with_name("rival_zoobot_train.py")
    command = [ZOOBOT / "bin" / "python", script, work / "zoobot-weights.safetensors", work / "zoobot.csv"]
    console.print(f"zoobot {ZOOBOT_VERSION} trains {EPOCHS} epochs")
    done = subprocess.run(
        [*map(str, command), str(N_TRAINING), str(EPOCHS), str(BATCH)], capture_output=True, text=True, cwd=work
    )
    if done.returncode:
        raise CommandError(f"zoobot failed: {done.stderr[-2000:]}")
    said = dict(line.split() for line in done.stdout.splitlines() if line.startswith(("seconds ", "loss ")))
    theirs_s, theirs_loss = float(said["seconds"]), float(said["loss"])
    table_of = Table(
        f"Fine-tuning {ARCHITECTURE} from ImageNet on {N_TRAINING} galaxies, {EPOCHS} epochs",
        ("what", "seconds", "validation loss"),
        [
            [f"zoobot {ZOOBOT_VERSION} FinetuneableZoobotClassifier", f"{theirs_s:.1f}", f"{theirs_loss:.4f}"],
            ["voorwerp, head on frozen features, then all", f"{ours_s:.1f}", f"{ours_loss:.4f}"],
        ],
        f"From files on disk to the best epoch, imports left out, {THREADS} cores. Both: batches of {BATCH}, rate "
        f"{RATE}, times {DECAY} from layer to layer, views turned and flipped at random. zoobot: as it is otherwise "
        "(AdamW, normalisations learn). Ours: the head first, which is in the time.",
    )
    return table_of, [
        Bar("fine-tuning: seconds, zoobot / voorwerp", theirs_s / ours_s, ">=", TIMES_ZOOBOT),
        Bar("fine-tuning: validation loss, voorwerp / zoobot", ours_loss / theirs_loss, "<=", 1.0),
    ]


def _ours(objects: pa.Table, truth: np.ndarray, weights: dict[str, torch.Tensor]) -> tuple[float, float]:
    started = perf_counter()
    canvases = _load(objects)
    settings = Settings(EPOCHS, EPOCHS, BATCH, RATE, 0)
    task = _task(settings, "all")
    state = initial(ARCHITECTURE, PRESET.n_bands, "linear", 1, 0, weights)
    training, validation = np.arange(N_TRAINING), np.arange(N_TRAINING, N_TRAINING + N_VALIDATION)
    inputs = Inputs(canvases, None, truth, training, validation)
    network = build(task, state)
    network.head = torch.nn.Identity()
    features = predict_rows(network, task, inputs, np.arange(len(canvases)))
    head = fit_head(
        make_head("linear", features.shape[1], 1, 0),
        (features[training], truth[training]),
        (features[validation], truth[validation]),
        loss_of("binary"),
        paper_schedule(N_TRAINING),
        0,
    ).head
    state |= {f"head.{name}": value for name, value in head.state_dict().items()}
    trained, _ = train_one(task, inputs, state)
    seconds = perf_counter() - started
    outputs = predict_rows(trained, task, inputs, validation)
    loss = judge(torch.nn.Identity(), in_memory(outputs, truth[validation]), loss_of("binary"), settings)
    return seconds, loss
