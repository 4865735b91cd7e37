"""Simulated galaxies as numbers: what each one is, drawn from wide distributions, and what a perfect eye would answer.

Morphologies follow the questions of Galaxy Zoo DECaLS (Walmsley et al. 2022a); sizes and brightnesses fall off as power
laws, as those of nearby galaxies do, without the claim of being any survey's.
"""

from dataclasses import dataclass, fields, replace
from typing import get_args

import numpy as np

from schemas.simulation import Kind, Oddity

KINDS: tuple[Kind, ...] = get_args(Kind)
ODDITIES: tuple[Oddity, ...] = get_args(Oddity)

_PSF_ARCSEC = 1.1
_BULGE_LIMITS = (0.04, 0.15, 0.3, 0.55)
"""Bulge fractions that part none, small, moderate, large and dominant."""
_ROUND, _CIGAR = 0.75, 0.42
"""Axis ratios that part round, in-between and cigar-shaped."""
_TIGHT_DEG, _LOOSE_DEG = 14.0, 24.0
"""Pitch angles that part tight, medium and loose."""


@dataclass(frozen=True)
class Truth:
    """n galaxies, an array of length n for each property."""

    kind: np.ndarray
    """Index into `KINDS`."""
    radius_arcsec: np.ndarray
    """Half-light radius of the disc, or of the whole where there is none."""
    magnitude: np.ndarray
    axis_ratio: np.ndarray
    """Minor to major, in (0, 1]; of a disc, the cosine of its inclination."""
    angle_deg: np.ndarray
    """Position angle in [0, 180)."""
    bulge_fraction: np.ndarray
    """Of the light, in [0, 1]."""
    bulge_boxiness: np.ndarray
    """0 is elliptical, 1 a box."""
    n_arms: np.ndarray
    """0 is none."""
    pitch_deg: np.ndarray
    """Of the arms; negative winds the other way."""
    arm_strength: np.ndarray
    """0 is none, 1 all the light of the disc."""
    bar_strength: np.ndarray
    """0 is none, 1 strong."""
    ring_strength: np.ndarray
    """0 is none, 1 most of the disc's light."""
    disturbance: np.ndarray
    """0 is none, 1 a merger in full course."""
    clumpiness: np.ndarray
    """0 is smooth, 1 nothing but clumps."""
    colour: np.ndarray
    """0 is old and red, 1 young and blue."""
    oddity: np.ndarray
    """Index into `ODDITIES`; 0 is none."""
    seed: np.ndarray
    """Of everything else about the image: noise, neighbours, where clumps are."""

    def __len__(self) -> int:
        return len(self.kind)

    def rows(self, start: int, stop: int) -> "Truth":
        """Take some galaxies."""
        return replace(self, **{field.name: getattr(self, field.name)[start:stop] for field in fields(self)})


def draw(n: int, shares: dict[Kind, float], odd_share: float, random: np.random.Generator) -> Truth:
    """Draw n galaxies.

    Parameters
    ----------
    n : int
    shares : dict of kind to share
        How common each kind is; need not add up to 1.
    odd_share : float
        Share of galaxies with something one-off beside them, in [0, 1].
    random : np.random.Generator
    """
    weights = np.array([shares.get(kind, 0.0) for kind in KINDS])
    kind = random.choice(len(KINDS), n, p=weights / weights.sum())
    is_kind = {name: kind == number for number, name in enumerate(KINDS)}
    disc = is_kind["disc"] | is_kind["ring"]
    edge_on = is_kind["edge-on"]
    radius = np.minimum(2.5 * (1 - random.random(n)) ** (-1 / 2.2), 15.0)
    magnitude = 17.8 - 2.5 * np.log10(radius / 2.5) * 1.2 + random.normal(0, 0.5, n)
    smooth_ratio = np.clip(random.beta(3.2, 1.6, n), 0.2, 1.0)
    disc_ratio = random.uniform(0.5, 1.0, n)
    axis_ratio = np.select([edge_on, disc], [random.uniform(0.08, 0.2, n), disc_ratio], smooth_ratio)
    spiral = disc & (random.random(n) < np.where(is_kind["ring"], 0.3, 0.75))
    barred = disc & (random.random(n) < 0.4)
    bulge = np.select([edge_on | disc], [random.beta(1.3, 3.2, n)], 0.0)
    bulge = np.where(edge_on & (random.random(n) < 0.35), 0.0, bulge)
    odd = (random.random(n) < odd_share) & ~is_kind["star"] & ~is_kind["artifact"]
    return Truth(
        kind=kind,
        radius_arcsec=radius,
        magnitude=magnitude,
        axis_ratio=axis_ratio,
        angle_deg=random.uniform(0, 180, n),
        bulge_fraction=bulge,
        bulge_boxiness=np.where(edge_on & (random.random(n) < 0.25), random.uniform(0.6, 1, n), 0.0),
        n_arms=np.where(spiral, random.choice([1, 2, 3, 4, 5, 6], n, p=[0.06, 0.56, 0.15, 0.1, 0.08, 0.05]), 0),
        pitch_deg=random.uniform(8, 34, n) * random.choice([-1, 1], n),
        arm_strength=np.where(spiral, random.uniform(0.45, 0.95, n), 0.0),
        bar_strength=np.where(barred, random.uniform(0.3, 1.0, n), 0.0),
        ring_strength=np.where(is_kind["ring"], random.uniform(0.45, 0.9, n), 0.0),
        disturbance=np.select(
            [is_kind["merger"], random.random(n) < 0.06], [random.uniform(0.6, 1, n), random.uniform(0.15, 0.5, n)], 0.0
        ),
        clumpiness=np.select(
            [is_kind["irregular"], disc], [random.uniform(0.6, 1, n), random.uniform(0.05, 0.4, n)], 0.0
        ),
        colour=np.clip(
            np.select(
                [is_kind["smooth"], is_kind["irregular"], disc | edge_on],
                [random.normal(0.12, 0.1, n), random.normal(0.85, 0.1, n), random.normal(0.6, 0.18, n)],
                random.normal(0.5, 0.25, n),
            ),
            0,
            1,
        ),
        oddity=np.where(odd, random.integers(1, len(ODDITIES), n), 0),
        seed=random.integers(2**62, size=n),
    )


def resolution(truth: Truth) -> np.ndarray:
    """How well details can be seen, (n,) in (0, 1): small galaxies hide them behind the seeing."""
    return 1 / (1 + (1.6 * _PSF_ARCSEC / truth.radius_arcsec) ** 2)


def answers(truth: Truth) -> dict[str, np.ndarray]:
    """What volunteers who look well would answer: the probability of each answer of the Galaxy Zoo DECaLS tree.

    Features that are weak, or blurred by the seeing, are missed more often than not.

    Returns
    -------
    dict of question_answer to (n,) float64 array
        Those of one question add up to 1.
    """
    is_kind = {name: truth.kind == number for number, name in enumerate(KINDS)}
    seen = resolution(truth)
    artifact = np.select([is_kind["artifact"], is_kind["star"]], [0.92, 0.85], 0.02)
    features = np.maximum.reduce(
        [
            truth.arm_strength,
            0.6 * truth.bar_strength,
            truth.ring_strength,
            0.8 * truth.clumpiness,
            0.9 * truth.disturbance,
            np.where(is_kind["edge-on"], 0.9, 0.0),
            np.where(is_kind["disc"] | is_kind["ring"], 0.45, 0.0),
        ]
    )
    featured = _sigmoid(9 * (features * seen**0.5 - 0.38))
    cigar_smooth = is_kind["smooth"] & (truth.axis_ratio < _CIGAR)
    made: dict[str, np.ndarray] = {}
    _fill(
        made,
        "smooth-or-featured",
        smooth=(1 - artifact) * (1 - featured),
        **{"featured-or-disk": (1 - artifact) * featured},
        artifact=artifact,
    )
    edge_on = np.select([is_kind["edge-on"], cigar_smooth], [0.94, 0.6], _sigmoid(30 * (0.3 - truth.axis_ratio)))
    _fill(made, "disk-edge-on", yes=edge_on, no=1 - edge_on)
    spiral = _sigmoid(10 * (truth.arm_strength * seen**0.5 - 0.3))
    _fill(made, "has-spiral-arms", yes=spiral, no=1 - spiral)
    bar = truth.bar_strength * seen**0.4
    _fill(made, "bar", strong=_between(bar, 0.62, 2), weak=_between(bar, 0.25, 0.62), no=_between(bar, -1, 0.25))
    bulge = np.where(is_kind["smooth"], 0.8, truth.bulge_fraction)
    edges = (-1.0, *_BULGE_LIMITS, 2.0)
    for name, low, high in zip(("none", "small", "moderate", "large", "dominant"), edges[:-1], edges[1:], strict=True):
        made[f"bulge-size_{name}"] = _between(bulge, low, high, width=0.04)
    _normalise(made, "bulge-size")
    ratio = truth.axis_ratio
    _fill(
        made,
        "how-rounded",
        round=_between(ratio, _ROUND, 2),
        **{"in-between": _between(ratio, _CIGAR, _ROUND), "cigar-shaped": _between(ratio, -1, _CIGAR)},
    )
    bulge_seen = _sigmoid(60 * (truth.bulge_fraction - 0.08))
    _fill(
        made,
        "edge-on-bulge",
        boxy=bulge_seen * truth.bulge_boxiness * 0.9,
        none=1 - bulge_seen,
        rounded=bulge_seen * (1 - 0.9 * truth.bulge_boxiness),
    )
    pitch = np.abs(truth.pitch_deg)
    _fill(
        made,
        "spiral-winding",
        tight=_between(pitch, -90, _TIGHT_DEG, 2.5),
        medium=_between(pitch, _TIGHT_DEG, _LOOSE_DEG, 2.5),
        loose=_between(pitch, _LOOSE_DEG, 180, 2.5),
    )
    uncertain = np.clip(0.6 - 0.5 * truth.arm_strength * seen + 0.06 * np.maximum(truth.n_arms - 2, 0), 0.05, 0.9)
    for count, name in enumerate(("1", "2", "3", "4", "more-than-4"), start=1):
        right = truth.n_arms == count if count < 5 else truth.n_arms >= 5
        near = np.abs(np.minimum(truth.n_arms, 5) - count) == 1
        made[f"spiral-arm-count_{name}"] = (1 - uncertain) * np.where(right, 0.85, np.where(near, 0.08, 0.01))
    made["spiral-arm-count_cant-tell"] = uncertain
    _normalise(made, "spiral-arm-count")
    disturbed = np.maximum(truth.disturbance, 0.35 * is_kind["irregular"]) * seen**0.3
    _fill(
        made,
        "merging",
        none=_between(disturbed, -1, 0.15),
        **{"minor-disturbance": _between(disturbed, 0.15, 0.38), "major-disturbance": _between(disturbed, 0.38, 0.58)},
        merger=_between(disturbed, 0.58, 2),
    )
    return made


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def _between(values: np.ndarray, low: float, high: float, width: float = 0.06) -> np.ndarray:
    """Probability that a blurred value lies between two limits."""
    return np.maximum(_sigmoid((values - low) / width) - _sigmoid((values - high) / width), 0)


def _fill(made: dict[str, np.ndarray], question: str, **probabilities: np.ndarray) -> None:
    made |= {f"{question}_{answer}": probability for answer, probability in probabilities.items()}
    _normalise(made, question)


def _normalise(made: dict[str, np.ndarray], question: str) -> None:
    """Let a question's answers add up to 1, each at least one in a hundred: people also click beside."""
    columns = [column for column in made if column.startswith(f"{question}_")]
    values = np.stack([made[column] for column in columns]) + 0.01
    values /= values.sum(axis=0)
    made |= dict(zip(columns, values, strict=True))
