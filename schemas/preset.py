"""A preset says how pixels become the encoder's input. It is data: a named YAML file, or one of the user's own."""

import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from schemas.errors import ConfigError
from schemas.validation import describe

_PRESETS = resources.files("schemas") / "presets"


class Preset(BaseModel):
    """How a cutout with values in [0, 1] becomes an encoder input of shape (bands, crop, crop)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    description: str = Field("", description="for people; it changes no pixel and no hash")
    bands: Literal["grey", "rgb"] = Field(description="grey: mean of the channels, one band; rgb: three bands")
    field: float = Field(1.0, gt=0, le=1, description="central fraction of the cutout's side that is kept first")
    resize: int = Field(gt=0, le=4096, description="side in pixels after the antialiased resize")
    crop: int = Field(gt=0, le=4096, description="side in pixels of the crop, at most `resize`")
    filter: Literal["bilinear", "bicubic", "lanczos"] = Field("bicubic", description="resize kernel, antialiased")
    mean: tuple[float, ...] = Field(description="subtracted, one per band")
    std: tuple[float, ...] = Field(description="divided by, one per band")

    @model_validator(mode="after")
    def _consistent(self) -> "Preset":
        if self.crop > self.resize:
            raise ValueError(f"crop ({self.crop} px) must not exceed resize ({self.resize} px)")
        if len(self.mean) != self.n_bands or len(self.std) != self.n_bands:
            raise ValueError(f"mean and std need {self.n_bands} values for bands: {self.bands}")
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        return self

    @property
    def n_bands(self) -> int:
        """Bands that the encoder receives."""
        return 1 if self.bands == "grey" else 3

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that changes pixels (the description does not)."""
        return self.model_dump(mode="json", exclude={"description"})

    @property
    def sha256(self) -> str:
        """Hash of the settings."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()


def preset_names() -> list[str]:
    """Names of the presets that come with voorwerp, sorted."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _PRESETS.iterdir() if entry.name.endswith(".yaml"))


def name_of(preset: Preset) -> str:
    """Name of the preset that comes with voorwerp and makes the same pixels; `custom` where none does."""
    same = [name for name in preset_names() if load_preset(name).settings == preset.settings]
    return same[0] if same else "custom"


def load_preset(name: str) -> Preset:
    """Load a preset by name, or from a YAML file when the name ends in `.yaml` or `.yml`.

    Raises
    ------
    ConfigError
        No preset has this name, the file does not exist, or its content is not a valid preset.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"preset: expected a preset file, found nothing at {path}")
        content = path.read_bytes()
    elif name in preset_names():
        content = (_PRESETS / f"{name}.yaml").read_bytes()
    else:
        raise ConfigError(f"preset: expected one of {', '.join(preset_names())} or a .yaml file, found {name!r}")
    try:
        return Preset.model_validate(yaml.safe_load(content))
    except (ValidationError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"preset {name}: {describe(error, Preset)}") from error
