"""Job: fix the encoder of a run. Its weights are fitted to the architecture, hashed and kept in the output."""

from time import perf_counter

from engine.storage.artefacts import encoder_identity, find, finish, library_versions, utc_now
from engine.storage.models import read_model
from engine.storage.store import Store
from engine.storage.weights import is_model, write_tensors
from jobs.report import note, warn
from jobs.weights import encoder_weights
from schemas import paths
from schemas.config import EmbedConfig, EncoderConfig
from schemas.errors import ConfigError
from schemas.manifest import Manifest, identity_id
from schemas.preset import Preset, load_preset

DEFAULT_PRESET = "walmsley2022"


def run(config: EncoderConfig, preset: Preset, store: Store) -> Manifest:
    """Keep the encoder's weights in the output, or confirm that they are there.

    Raises
    ------
    InputNotFoundError, ConfigError, DataError
        The weights are missing, unknown, damaged, or of another architecture or number of bands.
    """
    from engine.compute.encoder import encoder_dimension

    started = perf_counter()
    architecture = architecture_of(config)
    if is_model(config.weights) and read_model(Store(config.weights)).preset != preset.settings:
        warn("embed.preset: the model was trained with another")
    tensors, weights_sha256 = encoder_weights(architecture, config.weights, preset)
    assert tensors is not None
    identity = encoder_identity(architecture, preset.n_bands, weights_sha256)
    encoder_id = identity_id("encoder", identity)
    done = find(store, "encoder", encoder_id)
    if done:
        return done
    dimension = encoder_dimension(architecture, preset.n_bands, tensors, preset.crop)
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
    note("encoder", f"{architecture}, weights sha256 {str(weights_sha256)[:12]}, {dimension} filters")
    return finish(store, manifest)


def architecture_of(config: EncoderConfig) -> str:
    """Return the architecture that is named, or that of the model.

    Raises
    ------
    ConfigError
        None is named and the weights are no model, or the model is of another.
    """
    own = read_model(Store(config.weights)).architecture if is_model(config.weights) else None
    if config.architecture and own and config.architecture != own:
        raise ConfigError(f"encoder.architecture: expected {own}, as the model is, found {config.architecture!r}")
    chosen = config.architecture or own
    if not chosen:
        raise ConfigError("encoder.architecture: expected a timm model name beside these weights, found none")
    return chosen


def preset_of(encoder: EncoderConfig, embed: EmbedConfig) -> Preset:
    """Return the preset that is named, or that of the model, or the paper's; errors as of `load_preset`."""
    if embed.preset is None and is_model(encoder.weights):
        return Preset.model_validate(read_model(Store(encoder.weights)).preset)
    return load_preset(embed.preset or DEFAULT_PRESET)
