"""Simulated cutouts: light profiles, structure, seeing and noise of one galaxy, drawn with GalSim (Rowe et al. 2015).

Every galaxy is a few layers: an image convolved with the point spread function, its share of the light, and its
brightness in three bands. Lengths are arcseconds.
"""

from collections.abc import Iterator
from typing import NamedTuple

import galsim
import numpy as np

from engine.compute.morphology import KINDS, ODDITIES, Truth

BANDS = ("g", "r", "z")
_SEEING_ARCSEC = 1.1
_ZERO_POINT = 22.5
_SKY_SIGMA = 0.07
"""Of the sky in one square arcsecond."""
_FIELD_RADII = 8.5
"""Side of a cutout in half-light radii of its galaxy."""
_SMALLEST_FIELD_ARCSEC = 18.0
_RED, _BLUE = np.array([0.42, 1.0, 1.5]), np.array([1.0, 1.0, 0.95])
_OXYGEN = np.array([0.35, 1.0, 0.08])
"""Glowing gas that looks green."""
_PSF = galsim.Moffat(beta=3.5, fwhm=_SEEING_ARCSEC)
_GS = galsim.GSParams(folding_threshold=2e-2, maximum_fft_size=8192)


class Layer(NamedTuple):
    """Light of one kind."""

    image: np.ndarray
    """(side, side), not negative."""
    flux: float
    bands: np.ndarray
    """(3,) brightness in each band."""
    sharp: bool = False
    """Whether the image was convolved with the point spread function already."""


class Frame(NamedTuple):
    """Where pixels are."""

    x: np.ndarray
    """(side, side) arcsec from the galaxy's centre."""
    y: np.ndarray
    scale: float
    """arcsec per pixel."""

    @property
    def side(self) -> int:
        """Pixels."""
        return len(self.x)


class Disc(NamedTuple):
    """Polar coordinates in the plane of a disc."""

    r: np.ndarray
    """arcsec."""
    theta: np.ndarray
    """rad."""
    height: float
    """Scale length, arcsec."""


def pixel_scale_arcsec(truth: Truth, side: int) -> np.ndarray:
    """Arcseconds per pixel of each galaxy's cutout, (n,)."""
    return np.maximum(_FIELD_RADII * truth.radius_arcsec, _SMALLEST_FIELD_ARCSEC) / side


def draw_fluxes(truth: Truth, number: int, side: int) -> np.ndarray:
    """Draw one galaxy as a telescope would see it.

    Parameters
    ----------
    truth : Truth
    number : int
        Which of its galaxies.
    side : int
        Pixels, at least 32.

    Returns
    -------
    (3, side, side) float32 array
        Flux per square arcsecond in g, r and z, in units of the sky's noise in one; the sky is 0 on average. The same
        truth gives the same pixels.
    """
    one = truth.rows(number, number + 1)
    random = np.random.default_rng(int(one.seed[0]))
    scale = float(pixel_scale_arcsec(one, side)[0])
    offset = random.uniform(-0.5, 0.5, 2) * scale
    axis = (np.arange(side) - (side - 1) / 2) * scale
    x, y = np.meshgrid(axis - offset[0], axis - offset[1])
    frame = Frame(x, y, scale)
    flux = 10 ** (0.4 * (_ZERO_POINT - float(one.magnitude[0])))
    fluxes = np.zeros((3, side, side))
    for layer in [*_layers(one, frame, flux, random), *_others(one, frame, random)]:
        total = layer.image.sum()
        if total > 0:
            seen = layer.image if layer.sharp else _blurred(layer.image, scale)
            fluxes += seen / total * layer.flux * layer.bands[:, np.newaxis, np.newaxis]
    noise = _SKY_SIGMA * scale * np.sqrt(1 + np.maximum(fluxes, 0) / (scale**2))
    return ((fluxes + noise * random.standard_normal(fluxes.shape)) / (_SKY_SIGMA * scale**2)).astype(np.float32)


def _layers(one: Truth, frame: Frame, flux: float, random: np.random.Generator) -> Iterator[Layer]:
    """Yield the light of the object itself."""
    kind = KINDS[int(one.kind[0])]
    if kind == "star":
        yield from _star(frame, max(flux, 3000.0) * random.uniform(1, 4), random)
        return
    if kind == "artifact":
        yield from _artifact(one, frame, flux, random)
        return
    if kind == "merger":
        yield from _merger(one, frame, flux, random)
    elif kind == "irregular":
        yield from _irregular(one, frame, flux, random)
    elif kind == "edge-on":
        yield from _edge_on(one, frame, flux, random)
    elif kind == "smooth":
        yield _smooth(one, frame, flux, random)
    else:
        yield from _disc(one, frame, flux, random)
    disturbance = float(one.disturbance[0])
    if kind != "merger" and disturbance > 0:
        yield Layer(_tail(frame, float(one.radius_arcsec[0]), random), 0.25 * flux * disturbance, _tint(0.6))
    yield from _oddity(one, frame, flux, random)


def _smooth(one: Truth, frame: Frame, flux: float, random: np.random.Generator) -> Layer:
    profile = galsim.Sersic(
        n=float(random.choice([1.5, 2.0, 2.5, 3.0, 4.0])), half_light_radius=float(one.radius_arcsec[0]), gsparams=_GS
    )
    return _profile(profile, one, frame, flux, float(one.colour[0]))


def _disc(one: Truth, frame: Frame, flux: float, random: np.random.Generator) -> Iterator[Layer]:
    plane = _plane(one, frame)
    colour, bulge = float(one.colour[0]), float(one.bulge_fraction[0])
    base = np.exp(-plane.r / plane.height)
    bar_length = 1.5 * plane.height
    bar = float(one.bar_strength[0])
    young = np.zeros_like(base)
    if one.n_arms[0]:
        young += float(one.arm_strength[0]) * _arms(one, plane, bar_length if bar else 0.5 * plane.height, random)
    if one.ring_strength[0]:
        radius = random.uniform(1.7, 2.4) * plane.height
        ring = np.exp(-(((plane.r - radius) / (0.14 * radius)) ** 2))
        young += 1.6 * float(one.ring_strength[0]) * np.exp(-radius / plane.height) * ring
        base *= 1 - 0.75 * float(one.ring_strength[0]) * np.exp(-(((plane.r - 0.6 * radius) / (0.3 * radius)) ** 2))
    young *= 1 + float(one.clumpiness[0]) * _mottled(frame.side, random)
    strength = min(0.9, float(max(one.arm_strength[0], one.ring_strength[0])))
    disc_flux = flux * (1 - bulge) * (1 - 0.22 * bar)
    yield Layer(base, disc_flux * (1 - 0.75 * strength), _tint(0.75 * colour))
    yield Layer(np.maximum(young, 0), disc_flux * 0.75 * strength, _tint(min(1.0, colour + 0.35)))
    if bar:
        turned = plane.theta - random.uniform(0, np.pi)
        along, across = plane.r * np.cos(turned), plane.r * np.sin(turned)
        shape = np.exp(-(np.abs(along / bar_length) ** 3.5) - np.abs(across / (0.24 * bar_length)) ** 2)
        yield Layer(shape, flux * (1 - bulge) * 0.22 * bar, _tint(0.1))
    if bulge > 0.01:
        yield _bulge(one, frame, flux * bulge)


def _edge_on(one: Truth, frame: Frame, flux: float, random: np.random.Generator) -> Iterator[Layer]:
    bulge, radius = float(one.bulge_fraction[0]), float(one.radius_arcsec[0])
    along, across = _turned(one, frame)
    thickness = float(one.axis_ratio[0])
    height = radius / 1.3
    z = np.abs(across) / (height * thickness)
    disc = np.exp(-np.abs(along) / height) / np.cosh(np.minimum(z, 30)) ** 2
    if random.random() < 0.5:
        disc *= 1 - 0.6 * np.exp(-((z / 0.35) ** 2)) * (np.abs(along) < 2.2 * height)
    yield Layer(disc, flux * (1 - bulge), _tint(float(one.colour[0])))
    if bulge > 0.01:
        power = 2 + 2 * float(one.bulge_boxiness[0])
        size = 0.34 * radius * (1 + bulge)
        shape = (np.abs(along / size) ** power + np.abs(across / (0.75 * size)) ** power) ** (1 / power)
        yield Layer(np.exp(-1.6 * shape), flux * bulge, _tint(0.05))


def _irregular(one: Truth, frame: Frame, flux: float, random: np.random.Generator) -> Iterator[Layer]:
    plane = _plane(one, frame)
    clumpiness = float(one.clumpiness[0])
    lopsided = 1 + 0.8 * np.cos(plane.theta - random.uniform(0, 2 * np.pi)) * np.minimum(plane.r / plane.height, 1)
    yield Layer(np.exp(-plane.r / plane.height) * lopsided, flux * (1 - 0.6 * clumpiness), _tint(0.7))
    clumps = np.zeros_like(frame.x)
    radius = float(one.radius_arcsec[0])
    for _ in range(random.integers(5, 14)):
        where = random.normal(0, 0.8 * radius, 2)
        size = radius * random.uniform(0.08, 0.3)
        clumps += random.uniform(0.2, 1) * _blob(frame, float(where[0]), float(where[1]), size) / size
    yield Layer(clumps, flux * 0.6 * clumpiness, _tint(1.0))


def _merger(one: Truth, frame: Frame, flux: float, random: np.random.Generator) -> Iterator[Layer]:
    radius = float(one.radius_arcsec[0])
    share = random.uniform(0.25, 0.5)
    distance, direction = radius * random.uniform(0.7, 2.0), random.uniform(0, 2 * np.pi)
    apart = np.array([np.cos(direction), np.sin(direction)]) * distance / 2
    for part, place in ((1 - share, apart), (share, -apart)):
        moved = Frame(frame.x - place[0], frame.y - place[1], frame.scale)
        size = radius * part**0.5
        ratio, angle = random.uniform(0.4, 0.95), random.uniform(0, np.pi)
        along = moved.x * np.cos(angle) + moved.y * np.sin(angle)
        across = (moved.y * np.cos(angle) - moved.x * np.sin(angle)) / ratio
        r = np.hypot(along, across)
        blue = random.uniform(0.2, 0.9)
        yield Layer(np.exp(-2.6 * (r / size) ** random.uniform(0.55, 0.9)), 0.8 * flux * part, _tint(blue))
        tail = _tail(moved, size, random)
        yield Layer(tail, 0.35 * flux * part * float(one.disturbance[0]), _tint(min(1.0, blue + 0.2)))


def _star(frame: Frame, flux: float, random: np.random.Generator) -> Iterator[Layer]:
    yield _point(frame, flux, _tint(random.random()))
    if random.random() < 0.7:
        angle = random.choice([0.0, np.pi / 4])
        along = frame.x * np.cos(angle) + frame.y * np.sin(angle)
        across = frame.y * np.cos(angle) - frame.x * np.sin(angle)
        width = 0.5 * _SEEING_ARCSEC
        reach = 0.12 * frame.side * frame.scale
        spikes = np.exp(-np.abs(along) / reach - (across / width) ** 2) + np.exp(
            -np.abs(across) / reach - (along / width) ** 2
        )
        yield Layer(spikes, 0.06 * flux, _tint(0.5))


def _artifact(one: Truth, frame: Frame, flux: float, random: np.random.Generator) -> Iterator[Layer]:
    width = frame.side * frame.scale
    which = random.integers(4)
    if which == 0:  # A satellite's trail, each colour at another time.
        angle, at = random.uniform(0, np.pi), random.uniform(-0.25, 0.25) * width
        across = frame.y * np.cos(angle) - frame.x * np.sin(angle) - at
        for band in range(3):
            line = np.exp(-(((across - band * 0.05 * width) / _SEEING_ARCSEC) ** 2))
            yield Layer(line, 6.0 * width, np.eye(3)[band])
        yield _smooth(one, frame, flux, random)
    elif which == 1:  # A saturated star that bleeds along its column.
        column = np.exp(-((frame.x / (1.2 * _SEEING_ARCSEC)) ** 2)) * (
            np.abs(frame.y) < random.uniform(0.25, 0.5) * width
        )
        yield Layer(column, 25.0 * width, _tint(random.random()))
        yield _point(frame, 20_000.0, _tint(0.5))
    elif which == 2:  # A ghost: the out-of-focus pupil of a bright star.
        r = np.hypot(frame.x - 0.1 * width, frame.y)
        outer = random.uniform(0.25, 0.4) * width
        yield Layer(((r < outer) & (r > 0.4 * outer)) * 1.0, 0.5 * width**2, _tint(random.random()))
    else:  # Scattered light, and nothing else.
        angle = random.uniform(0, 2 * np.pi)
        slope = np.exp(3 * (frame.x * np.cos(angle) + frame.y * np.sin(angle)) / width)
        yield Layer(slope, 0.8 * width**2, _tint(random.random()), sharp=True)


def _oddity(one: Truth, frame: Frame, flux: float, random: np.random.Generator) -> Iterator[Layer]:
    """Yield what one galaxy in thousands has."""
    name, radius = ODDITIES[int(one.oddity[0])], float(one.radius_arcsec[0])
    angle = random.uniform(0, 2 * np.pi)
    r, theta = np.hypot(frame.x, frame.y), np.arctan2(frame.y, frame.x)
    if name == "voorwerp":  # A cloud of ionised gas beside its galaxy.
        cloud = np.zeros_like(r)
        for _ in range(9):
            direction, distance = angle + random.normal(0, 0.35), radius * random.uniform(2.0, 3.4)
            x, y = distance * np.cos(direction), distance * np.sin(direction)
            cloud += _blob(frame, x, y, radius * random.uniform(0.15, 0.4))
        yield Layer(cloud, 0.7 * flux, _OXYGEN)
    elif name == "arc":  # A lensed galaxy behind.
        bent = np.abs(np.angle(np.exp(1j * (theta - angle)))) < random.uniform(0.6, 1.3)
        yield Layer(bent * np.exp(-(((r - 2.2 * radius) / (0.2 * radius)) ** 2)), 0.3 * flux, _tint(1.0))
    elif name == "polar-ring":
        along, across = _turned(one, frame)
        ring = np.hypot(along / 0.25, across)
        yield Layer(np.exp(-(((ring - 2.4 * radius) / (0.35 * radius)) ** 2)), 0.4 * flux, _tint(0.95))
    elif name == "jet":
        along = frame.x * np.cos(angle) + frame.y * np.sin(angle)
        across = frame.y * np.cos(angle) - frame.x * np.sin(angle)
        jet = np.exp(-((across / (0.12 * radius)) ** 2)) * (along > 0) * (along < 3.4 * radius)
        yield Layer(jet * (1 + 0.8 * np.sin(6 * along / radius)), 0.25 * flux, _tint(1.0))
    elif name == "double-nucleus":
        for sign in (-1, 1):
            x, y = sign * 0.45 * radius * np.cos(angle), sign * 0.45 * radius * np.sin(angle)
            yield Layer(_blob(frame, x, y, 0.3 * frame.scale), 0.25 * flux, _tint(0.3))
    elif name == "shells":
        for number, at in enumerate((1.6, 2.3, 3.1)):
            bent = np.abs(np.angle(np.exp(1j * (theta - angle - number * np.pi)))) < 0.9
            edge = np.where(r < at * radius, np.exp((r - at * radius) / (0.35 * radius)), 0)
            yield Layer(bent * edge, 0.12 * flux, _tint(0.2))


def _others(one: Truth, frame: Frame, random: np.random.Generator) -> Iterator[Layer]:
    """Yield what happens to be in the same part of the sky: faint galaxies and stars."""
    half = 0.5 * frame.side * frame.scale
    for _ in range(random.poisson(1.3)):
        x, y = random.uniform(-half, half, 2)
        flux = 10 ** (0.4 * (_ZERO_POINT - random.uniform(18.5, 22)))
        size = 0.01 if random.random() < 0.35 else random.uniform(0.4, 1.2)
        yield Layer(_blob(frame, x, y, max(size, 0.4 * frame.scale)), flux, _tint(random.random()))


def _arms(one: Truth, plane: Disc, inner: float, random: np.random.Generator) -> np.ndarray:
    """Logarithmic spirals on an exponential disc."""
    n_arms, pitch = int(one.n_arms[0]), np.radians(float(one.pitch_deg[0]))
    winding = np.log(np.maximum(plane.r, 0.05 * plane.height) / plane.height) / np.tan(pitch)
    phase = n_arms * (plane.theta - winding - random.uniform(0, 2 * np.pi))
    ridge = np.exp((2.6 + 0.5 * n_arms) * (np.cos(phase) - 1))
    begun = 1 / (1 + np.exp(-(plane.r - inner) / (0.18 * plane.height)))
    return np.exp(-plane.r / (1.35 * plane.height)) * ridge * begun


def _tail(frame: Frame, radius: float, random: np.random.Generator) -> np.ndarray:
    """A tidal tail that winds outwards and fades."""
    start, turn = random.uniform(0, 2 * np.pi), random.choice([-1, 1]) * random.uniform(0.7, 1.8)
    steps = np.linspace(0, 1, 24)
    reach = radius * (0.8 + random.uniform(1.6, 2.8) * steps)
    angle = start + turn * steps
    light = np.zeros_like(frame.x)
    for distance, direction, step in zip(reach, angle, steps, strict=True):
        size = radius * (0.16 + 0.16 * step)
        light += (1 - 0.7 * step) * _blob(frame, distance * np.cos(direction), distance * np.sin(direction), size)
    return light


def _bulge(one: Truth, frame: Frame, flux: float) -> Layer:
    size = float(one.radius_arcsec[0]) * (0.14 + 0.4 * float(one.bulge_fraction[0]))
    profile = galsim.Sersic(n=2.5, half_light_radius=size, gsparams=_GS).shear(q=0.9, beta=0 * galsim.degrees)
    return _drawn(profile, frame, flux, _tint(0.05))


def _profile(profile: galsim.GSObject, one: Truth, frame: Frame, flux: float, colour: float) -> Layer:
    sheared = profile.shear(q=float(one.axis_ratio[0]), beta=float(one.angle_deg[0]) * galsim.degrees)
    return _drawn(sheared, frame, flux, _tint(colour))


def _point(frame: Frame, flux: float, bands: np.ndarray) -> Layer:
    return _drawn(galsim.Gaussian(sigma=1e-3), frame, flux, bands)


def _drawn(profile: galsim.GSObject, frame: Frame, flux: float, bands: np.ndarray) -> Layer:
    """Let GalSim convolve a profile with the point spread function and draw it; the light outside the frame is lost."""
    offset = galsim.PositionD(-float(frame.x.mean()) / frame.scale, -float(frame.y.mean()) / frame.scale)
    drawn = galsim.Convolve(profile, _PSF).drawImage(nx=frame.side, ny=frame.side, scale=frame.scale, offset=offset)
    image = np.maximum(drawn.array.astype(float), 0)
    return Layer(image, flux * float(image.sum()), bands, sharp=True)


def _blurred(image: np.ndarray, scale: float) -> np.ndarray:
    """Convolve an image with the point spread function."""
    drawn = galsim.InterpolatedImage(
        galsim.ImageD(np.ascontiguousarray(image, float)),
        scale=scale,
        x_interpolant="linear",
        calculate_stepk=False,
        calculate_maxk=False,
    )
    seen = galsim.Convolve(drawn, _PSF).drawImage(nx=len(image), ny=len(image), scale=scale, method="no_pixel")
    return np.asarray(seen.array, dtype=float)


def _plane(one: Truth, frame: Frame) -> Disc:
    along, across = _turned(one, frame)
    across = across / max(float(one.axis_ratio[0]), 0.05)
    return Disc(np.hypot(along, across), np.arctan2(across, along), float(one.radius_arcsec[0]) / 1.68)


def _turned(one: Truth, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along and across the major axis."""
    angle = np.radians(float(one.angle_deg[0]))
    return (
        frame.x * np.cos(angle) + frame.y * np.sin(angle),
        frame.y * np.cos(angle) - frame.x * np.sin(angle),
    )


def _blob(frame: Frame, x: float, y: float, size: float) -> np.ndarray:
    return np.exp(-((frame.x - x) ** 2 + (frame.y - y) ** 2) / (2 * size**2))


def _mottled(side: int, random: np.random.Generator) -> np.ndarray:
    """A random field with structure of a few pixels, mean 0 and variance 1."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, np.newaxis], np.fft.rfftfreq(side))
    field = np.fft.irfft2(
        np.fft.rfft2(random.standard_normal((side, side))) * np.exp(-((frequency / 0.12) ** 2)), s=(side, side)
    )
    return np.asarray(field / field.std())


def _tint(colour: float) -> np.ndarray:
    """Band brightnesses from old and red (0) to young and blue (1), with that in r fixed."""
    return _RED + colour * (_BLUE - _RED)
