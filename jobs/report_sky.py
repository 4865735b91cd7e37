"""Maps of the sky for a report card: every pixel takes the value of its tile. Each is drawn for light and for dark."""

import io
import math
from typing import Any, NamedTuple

import numpy as np

from engine.cluster.report_card import Tiles
from engine.compute.report_tiles import Judged, tiles_of_positions
from engine.compute.sky import healpix_29, pixel_centres, unit_vectors
from engine.compute.tile_drift import STANDS_OUT
from schemas.report import Flag

_WHOLE_SKY_FROM_DEG = 50.0
"""Radius of a footprint beyond which the whole sky is drawn, in the projection of Mollweide."""
_PIXELS = 720
_WIDTH_INCHES, _DOTS_PER_INCH = 5.4, 160
_INK = {"light": "#2b2f36", "dark": "#d9d6cf"}
_EMPTY = {"light": "#f1efea", "dark": "#1d2025"}
_PAPER = {"light": "#fbfaf8", "dark": "#131417"}
_MARK = {"light": "#a8231b", "dark": "#ffb199"}
_AMOUNT = {"light": ("#dbe6ee", "#6f9bbd", "#173f63"), "dark": ("#1f2f3d", "#4d7fa8", "#d3e7f7")}
_TROUBLE = {
    "light": ("#e4e6e3", "#ecc078", "#c2571f", "#5a1410"),
    "dark": ("#2a2c2c", "#8a5f2a", "#e88b43", "#ffe6c2"),
}
_NUMBERED = 9
"""Tiles whose number in the table is written beside them."""


class Figure(NamedTuple):
    """A map."""

    title: str
    caption: str
    png: dict[str, bytes]
    """For light and for dark."""
    width: int
    height: int


class _Values(NamedTuple):
    title: str
    caption: str
    label: str
    values: np.ndarray
    """(t,) float64; NaN is drawn as empty."""
    low: float
    high: float
    flag: tuple[Flag, ...] = ()
    """Tiles that stand out by these are ringed."""
    is_amount: bool = False
    """Whether there is more or less of something, instead of good and bad."""


def sky_figures(tiles: Tiles, judged: Judged) -> list[Figure]:
    """Draw where a release has objects, where rejects are, and where tiles stand out."""
    sky = _Sky(tiles)
    return [_drawn(sky, one, judged) for one in _maps(tiles, judged)]


def _maps(tiles: Tiles, judged: Judged) -> list[_Values]:
    area_deg2 = 4 * math.pi * np.degrees(1) ** 2 / (12.0 * 4.0**tiles.orders)
    density = judged.n_objects / area_deg2
    said, unit = "Embedded objects in each tile of the sky.", "objects per square degree"
    found = [_Values("Objects", said, unit, density, *_limits(density), is_amount=True)]
    drift = np.fmax(judged.mean.z, np.abs(judged.spread.z))
    said = "How far each tile is from all others in component space: its mean or its spread, whichever is further."
    found.append(_Values("Drift", said, "robust z-score", drift, 0.0, 2 * STANDS_OUT, ("mean", "spread")))
    if judged.n_rejected.any():
        share = 100 * judged.n_rejected / (judged.n_objects + judged.n_rejected)
        said, most = "Share of each tile's cutouts that were rejected.", max(1.0, float(np.percentile(share, 99.5)))
        found.append(_Values("Rejects", said, "per cent", share, 0.0, most, ("rejects",)))
    if judged.change is not None:
        said, unit = "How far each tile moved since the previous release.", "standard deviations of one object"
        most = max(0.1, float(np.nanmax(judged.change.size, initial=0.0)))
        found.append(_Values("Change", said, unit, judged.change.size, 0.0, most, ("change",)))
    return found


def _limits(values: np.ndarray) -> tuple[float, float]:
    low, high = (float(np.percentile(values, share)) for share in (1, 99))
    return (low, high) if high > low * 1.05 else (low / 1.5, high * 1.5)


class _Sky:
    """The part of the sky that is drawn, and which tile each pixel shows."""

    def __init__(self, tiles: Tiles) -> None:
        from astropy.wcs import WCS

        self.ra_deg, self.dec_deg = pixel_centres(tiles.orders, tiles.pixels)
        directions = unit_vectors(self.ra_deg, self.dec_deg)
        middle = directions.mean(axis=0)
        length = float(np.linalg.norm(middle))
        side_deg = float(np.degrees(math.sqrt(math.pi / 3)) / 2.0 ** tiles.orders.min())
        self.reach_deg = 180.0
        if length > 0.05:
            middle = middle / length
            apart = np.degrees(np.arccos(np.clip(directions @ middle, -1, 1)))
            self.reach_deg = float(apart.max()) + side_deg
        self.is_whole = self.reach_deg > _WHOLE_SKY_FROM_DEG
        self.wcs = WCS(naxis=2)
        if self.is_whole:
            self.shape = (_PIXELS // 2, _PIXELS)
            scale = 2 * math.sqrt(2) * np.degrees(1) * 2 / _PIXELS
            self.wcs.wcs.ctype, self.wcs.wcs.crval = ["RA---MOL", "DEC--MOL"], [180.0, 0.0]
        else:
            self.shape = (_PIXELS, _PIXELS)
            scale = 2 * self.reach_deg / _PIXELS
            ra = float(np.degrees(np.arctan2(middle[1], middle[0])) % 360)
            self.wcs.wcs.ctype = ["RA---ZEA", "DEC--ZEA"]
            self.wcs.wcs.crval = [ra, float(np.degrees(np.arcsin(np.clip(middle[2], -1, 1))))]
        self.wcs.wcs.cdelt = [-scale, scale]
        self.wcs.wcs.crpix = [self.shape[1] / 2 + 0.5, self.shape[0] / 2 + 0.5]
        self.wcs.wcs.set()
        y, x = np.mgrid[: self.shape[0], : self.shape[1]]
        ra_deg, dec_deg = self.wcs.wcs_pix2world(x.ravel(), y.ravel(), 0)
        seen = np.isfinite(ra_deg) & np.isfinite(dec_deg)
        self.tile = np.full(len(ra_deg), -1, np.int64)
        healpix = healpix_29(ra_deg[seen] % 360, np.clip(dec_deg[seen], -90, 90))
        self.tile[seen] = tiles_of_positions(healpix, tiles.orders, tiles.pixels)
        self.tile = self.tile.reshape(self.shape)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top pixel of what is drawn."""
        if self.is_whole:
            return -0.5, self.shape[1] - 0.5, -0.5, self.shape[0] - 0.5
        rows, columns = (np.flatnonzero((self.tile >= 0).any(axis=axis)) for axis in (1, 0))
        margin = 0.04 * max(float(np.ptp(rows)), float(np.ptp(columns)), 10.0)
        return columns[0] - margin, columns[-1] + margin, rows[0] - margin, rows[-1] + margin

    def places(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels, x and y, of the centres of tiles."""
        if not len(at):
            return np.empty(0), np.empty(0)
        x, y = self.wcs.wcs_world2pix(self.ra_deg[at], self.dec_deg[at], 0)
        return x, y


def _drawn(sky: _Sky, shown: _Values, judged: Judged) -> Figure:
    flags = judged.flags
    numbers = {
        number: at
        for number, at in enumerate(judged.worst_first.tolist(), start=1)
        if any(flags[name][at] for name in shown.flag)
    }
    pngs, size = {}, (0, 0)
    for theme in ("light", "dark"):
        pngs[theme], size = _png(sky, shown, numbers, theme)
    return Figure(shown.title, shown.caption, pngs, *size)


def _png(sky: _Sky, shown: _Values, numbers: dict[int, int], theme: str) -> tuple[bytes, tuple[int, int]]:
    from astropy.visualization.wcsaxes.frame import EllipticalFrame, RectangularFrame
    from matplotlib import figure as figures
    from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize, to_rgba

    left, right, bottom, top = sky.box
    aspect = (top - bottom) / (right - left)
    height = min(1.0, max(0.35, aspect)) * _WIDTH_INCHES * 0.82 + 1.17
    figure = figures.Figure(figsize=(_WIDTH_INCHES, height), dpi=_DOTS_PER_INCH)
    frame = EllipticalFrame if sky.is_whole else RectangularFrame
    axes = figure.add_axes((0.13, 1.12 / height, 0.82, 1 - 1.17 / height), projection=sky.wcs, frame_class=frame)
    colours = LinearSegmentedColormap.from_list("tiles", (_AMOUNT if shown.is_amount else _TROUBLE)[theme])
    norm = (LogNorm if shown.is_amount else Normalize)(shown.low, shown.high)
    values = np.append(shown.values, np.nan)[sky.tile]
    # Tiles without a value are there, and empty; what is no tile is not drawn at all.
    pixels = colours(norm(np.nan_to_num(values, nan=shown.low)), bytes=True)
    pixels[np.isnan(values)] = 255 * np.array(to_rgba(_EMPTY[theme]))
    pixels[sky.tile < 0] = 0
    axes.imshow(pixels, origin="lower", interpolation="nearest")
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    _mark(axes, sky, numbers, theme)
    _dress(axes, theme, sky)
    _add_bar(figure, norm, colours, shown, theme)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", transparent=True, metadata={"Software": None})
    return buffer.getvalue(), (round(_WIDTH_INCHES * _DOTS_PER_INCH), round(height * _DOTS_PER_INCH))


def _mark(axes: Any, sky: _Sky, numbers: dict[int, int], theme: str) -> None:
    from matplotlib.patheffects import withStroke

    x, y = sky.places(np.array(list(numbers.values()), np.int64))
    halo = [withStroke(linewidth=3.5, foreground=_PAPER[theme])]
    axes.plot(x, y, "o", mfc="none", mec=_MARK[theme], ms=11, mew=1.6, path_effects=halo)
    for number, *place in zip([number for number in numbers if number <= _NUMBERED], x, y, strict=False):
        style = {
            "textcoords": "offset points",
            "color": _MARK[theme],
            "size": 11,
            "weight": "bold",
            "path_effects": halo,
        }
        axes.annotate(str(number), place, (7, 6), **style)


def _add_bar(figure: Any, norm: Any, colours: Any, shown: _Values, theme: str) -> None:
    from matplotlib.cm import ScalarMappable

    ink, height = _INK[theme], figure.get_figheight()
    axes = figure.add_axes((0.22, 0.46 / height, 0.6, 0.1 / height))
    scale = ScalarMappable(norm, colours)
    bar = figure.colorbar(scale, cax=axes, orientation="horizontal", extend="neither" if shown.is_amount else "max")
    if shown.is_amount:
        ticks = np.geomspace(shown.low, shown.high, 4)
        bar.set_ticks(ticks, labels=[f"{float(f'{tick:.2g}'):,g}" for tick in ticks])
        bar.minorticks_off()
    bar.set_label(shown.label, color=ink, size=9.5)
    bar.ax.tick_params(colors=ink, labelsize=9)
    bar.outline.set_edgecolor(ink)


def _dress(axes: Any, theme: str, sky: _Sky) -> None:
    ink = _INK[theme]
    axes.coords.grid(color=ink, alpha=0.25, linestyle="solid", linewidth=0.5)
    axes.coords.frame.set_color(ink)
    axes.coords.frame.set_linewidth(0.8)
    digits = "d" if sky.reach_deg > _WHOLE_SKY_FROM_DEG else "d.d" if sky.reach_deg > 2 else "d.ddd"
    for coordinate, name in zip(axes.coords, ("RA", "Dec"), strict=True):
        coordinate.set_major_formatter(digits)
        coordinate.set_ticklabel(color=ink, size=9, exclude_overlapping=True)
        coordinate.set_ticks(color=ink, number=5)
        coordinate.set_axislabel(
            "" if sky.is_whole else f"{name} (deg)", color=ink, size=9.5, minpad=0.9 if name == "RA" else 0.4
        )
