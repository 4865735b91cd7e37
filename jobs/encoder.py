"""Job: fix the encoder of a run. Its weights are fitted to the architecture, hashed and kept in the output."""

from time import perf_counter

from engine.storage.artefacts import find, finish, library_versions, utc_now
from engine.storage.store import Store
from engine.storage.weights import LITE0, read_weights, write_tensors
from jobs.report import note
from schemas import paths
from schemas.config import EncoderConfig
from schemas.manifest import Manifest, identity_id
from schemas.preset import Preset


def run(config: EncoderConfig, preset: Preset, store: Store) -> Manifest:
    """Keep the encoder's weights in the output, or confirm that they are there.

    Raises
    ------
    InputNotFoundError, ConfigError, DataError
        The weights are missing, unknown, damaged, or of another architecture or number of bands.
    """
    from engine.compute.encoder import encoder_dimension, encoder_tensors

    started = perf_counter()
    weights = read_weights(config.weights)
    tensors = encoder_tensors(config.architecture, preset.n_bands, weights.tensors, by_order=config.weights == LITE0)
    identity = {"architecture": config.architecture, "bands": preset.n_bands, "weights_sha256": weights.sha256}
    encoder_id = identity_id("encoder", identity)
    done = find(store, "encoder", encoder_id)
    if done:
        return done
    dimension = encoder_dimension(config.architecture, preset.n_bands, tensors, preset.crop)
    record = write_tensors(store.below(paths.artefact("encoder", encoder_id)), paths.WEIGHTS, tensors)
    manifest = Manifest(
        kind="encoder",
        id=encoder_id,
        identity=identity,
        counts={},
        detail={"dimension": dimension, "source": config.weights},
        files=[record],
        versions=library_versions(),
        durations_s={"encoder": perf_counter() - started},
        created_utc=utc_now(),
    )
    note("encoder", f"{config.architecture}, weights sha256 {weights.sha256[:12]}, {dimension} filters")
    return finish(store, manifest)
