"""Job: demo. Galaxies of one Hubble image are cut out and released with a real encoder; a page shows their neighbours.

Detection lives here and not in the engine: a survey brings its own catalogue and cutouts.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image
from sklearn.cluster import KMeans

from engine.cluster.answer import Question, answer
from engine.cluster.opened import OpenRelease, open_release
from engine.storage.artefacts import release_chain
from engine.storage.store import Store
from jobs import release, report
from schemas import paths
from schemas.config import ReleaseJob
from schemas.errors import ConfigError
from schemas.tables import CUTOUT, DEC, DISTANCE, OBJECT_ID, QUERY_ID, RA

try:
    import sep
    from jinja2 import Environment, PackageLoader
    from matplotlib.figure import Figure
    from skimage.data import hubble_deep_field
except ImportError as error:
    raise ConfigError(f"the demo needs more packages ({error}): pip install 'voorwerp[demo]'") from error

ENCODER = "EfficientNet-Lite0, trained on ImageNet photographs, not on galaxies"
N_NEIGHBOURS = 7
CENTRE_DEG = (53.1625, -27.7914)  # RA, Dec of the Hubble Ultra Deep Field: Beckwith et al. 2006, AJ 132, 1729.
PIXEL_ARCSEC = 0.138  # The image's published width, 2.3 arcmin, over its 1000 pixels.

# How galaxies are told from the rest, set by eye on this image.
SIGMA, SMALLEST_AREA = 2.0, 50  # Of a detection: above the sky's noise, and in pixels.
HALF_SIDE = 2.8  # Of a cutout, in half-light radii: the galaxy fills the field.
SMALLEST_SHARE = 0.65  # The galaxy's own, of its cutout's detected light: less in blends and beside bright neighbours.
SMALLEST_FILL = 5.8  # Isophotal area over that of the ellipse of moments: less where several specks were merged.
MOST_COMPACT = 0.40  # Half-light radius over that of the isophote: less for faint stars and specks.
MOST_FOURFOLD = 0.33  # Correlation of the light with itself a quarter turn on: more for the spikes of bright stars.


class Answer(NamedTuple):
    """A query galaxy and its neighbours, nearest first."""

    query: str
    neighbours: list[str]
    distances: list[float]
    """L1, between components."""


def run(output: Path, n_queries: int = 12) -> Path:
    """Make the demo in a folder, reusing the release that is there; return the path of its page."""
    store = Store(str(output))
    report.note("demo", f"the encoder is {ENCODER}")
    image = hubble_deep_field()
    galaxies = detect(image)
    report.note("detect", f"{len(galaxies):,} galaxies in the Hubble eXtreme Deep Field")
    pngs = {}
    for galaxy, pixels in zip(galaxies.to_dict("records"), cutouts(image, galaxies), strict=True):
        pngs[galaxy[OBJECT_ID]] = _encoded(pixels, "PNG")
        store.write(galaxy[CUTOUT], pngs[galaxy[OBJECT_ID]])
    store.write("catalogue.csv", galaxies.to_csv(index=False).encode())
    job = ReleaseJob.model_validate(
        {
            "catalogue": {"path": store.uri("catalogue.csv")},
            "encoder": {"architecture": "tf_efficientnet_lite0", "weights": "package:lite0"},
            "embed": {"preset": "imagenet-half"},
            "reduce": {"n_components": 10},
            "output": store.uri("release"),
        }
    )
    released = Store(job.output)
    chain = release_chain(released, release.run(job))
    opened = open_release(released)
    answers = ask(opened, choose(opened, list(pngs), n_queries))
    variance = sum(chain["components"].detail["explained_variance_ratio"])
    store.write("neighbours.png", draw(answers, pngs))
    store.write("index.html", page(answers, galaxies, pngs, image, variance).encode())
    embeddings = released.uri(paths.artefact("embeddings", chain["embeddings"].id))
    report.output.print(
        f"\nThe page: {output / 'index.html'}\nAs a picture: {output / 'neighbours.png'}\n"
        f"Its encoder is {ENCODER}.\n\nTry next:\n"
        f"  voorwerp neighbours {output / 'release'} --id hdf-0007 -k 5\n"
        f"  voorwerp verify {output / 'release'}\n"
        f'  lsdb.open_catalog("{embeddings}")    # in Python, after pip install lsdb',
        markup=False,
        soft_wrap=True,
    )
    return output / "index.html"


def detect(image: np.ndarray) -> pd.DataFrame:
    """Find the galaxies of a (height, width, 3) uint8 image whose cutouts lie inside it; brightest first.

    Returns
    -------
    pd.DataFrame
        A catalogue. `flux` is the sum of grey display values above the sky, which is no photometry; pixels count from
        0; positions are approximate: `CENTRE_DEG` in the middle, north taken as up, east left.
    """
    grey = image.mean(axis=2, dtype=np.float32)
    sky = sep.Background(grey)
    light = grey - sky.back()
    found, segments = sep.extract(light, SIGMA, err=sky.globalrms, minarea=SMALLEST_AREA, segmentation_map=True)
    x, y, flux = found["x"], found["y"], found["flux"]
    radius, _ = sep.flux_radius(light, x, y, np.full(len(x), 40.0), 0.5, normflux=flux, subpix=5)
    half = np.ceil(HALF_SIDE * radius).astype(int)
    left, top, side = np.rint(x).astype(int) - half, np.rint(y).astype(int) - half, 2 * half + 1
    height, width = grey.shape
    inside = (left >= 0) & (top >= 0) & (left + side <= width) & (top + side <= height)
    whole = found["npix"] / (np.pi * found["a"] * found["b"]) > SMALLEST_FILL
    extended = radius / np.sqrt(found["npix"] / np.pi) > MOST_COMPACT
    passed: list[int] = []
    for row in np.flatnonzero(inside & whole & extended).tolist():
        square = np.s_[top[row] : top[row] + side[row], left[row] : left[row] + side[row]]
        own, detected = segments[square] == row + 1, segments[square] > 0
        share = light[square][own].sum() / light[square][detected].sum()
        if share > SMALLEST_SHARE and fourfold(light[square], radius[row]) < MOST_FOURFOLD:
            passed.append(row)
    kept = np.array(sorted(passed, key=lambda row: -flux[row]), dtype=int)
    names = [f"hdf-{number:04d}" for number in range(1, len(kept) + 1)]
    east_deg, north_deg = ((width - 1) / 2 - x) * PIXEL_ARCSEC / 3600, ((height - 1) / 2 - y) * PIXEL_ARCSEC / 3600
    return pd.DataFrame(
        {
            OBJECT_ID: names,
            RA: (CENTRE_DEG[0] + east_deg[kept] / np.cos(np.radians(CENTRE_DEG[1]))).round(6),
            DEC: (CENTRE_DEG[1] + north_deg[kept]).round(6),
            CUTOUT: [f"cutouts/{name}.png" for name in names],
            "flux": flux[kept].round(1),
            "half_light_radius_pixels": radius[kept].round(2),
            "left_pixel": left[kept],
            "top_pixel": top[kept],
            "side_pixels": side[kept],
        }
    )


def fourfold(light: np.ndarray, radius: float) -> float:
    """Correlate a square of light with itself turned by 90 degrees, between one and two radii, rings subtracted."""
    half = len(light) // 2
    ring = np.rint(np.hypot(*np.mgrid[-half : half + 1, -half : half + 1])).astype(int)
    mean = np.bincount(ring.ravel(), light.ravel()) / np.bincount(ring.ravel())
    rest = np.where((ring > radius) & (ring <= 2 * radius), light - mean[ring], 0)
    return float((rest * np.rot90(rest)).sum() / max((rest**2).sum(), 1e-9))


def cutouts(image: np.ndarray, galaxies: pd.DataFrame) -> list[np.ndarray]:
    """Cut each galaxy's square out of the image, (side, side, 3) uint8."""
    squares = galaxies[["left_pixel", "top_pixel", "side_pixels"]].itertuples(index=False)
    return [image[top : top + side, left : left + side] for left, top, side in squares]


def choose(opened: OpenRelease, brightest_first: Sequence[str], n: int) -> list[str]:
    """Choose n of the brightest third, spread through component space: the members next to the means of n clusters."""
    bright = brightest_first[: max(n, len(brightest_first) // 3)]
    vectors = opened.vectors(opened.find(pa.array(bright)))
    distances = KMeans(n, n_init=10, random_state=0).fit_transform(vectors)
    own = np.where(distances == distances.min(axis=1, keepdims=True), distances, np.inf)
    return [bright[row] for row in np.sort(own.argmin(axis=0)).tolist()]


def ask(opened: OpenRelease, queries: Sequence[str]) -> list[Answer]:
    """Find the neighbours of each query."""
    places = opened.find(pa.array(queries))
    found = answer(opened, np.arange(len(queries)), places, None, Question(N_NEIGHBOURS)).to_pandas()
    return [
        Answer(query, list(near[OBJECT_ID]), list(near[DISTANCE]))
        for query, near in found.groupby(QUERY_ID, sort=False)
    ]


def draw(answers: Sequence[Answer], pngs: Mapping[str, bytes]) -> bytes:
    """Draw one row per query, the query at its left, as a PNG."""
    figure = Figure(figsize=(1.3 * (N_NEIGHBOURS + 1), 1.5 * len(answers) + 0.9), dpi=110, layout="constrained")
    figure.suptitle(f"Nearest neighbours by L1 distance between components\nEncoder: {ENCODER}", fontsize=11)
    grid = figure.subplots(len(answers), N_NEIGHBOURS + 1, squeeze=False)
    for line, (query, near, distances) in zip(grid, answers, strict=True):
        titles = [query, *(f"{distance:.1f}" for distance in distances)]
        for axes, object_id, title in zip(line, [query, *near], titles, strict=True):
            axes.imshow(np.asarray(Image.open(io.BytesIO(pngs[object_id]))), interpolation="bicubic")
            axes.set_title(title, fontsize=9, fontweight="bold" if object_id == query else "normal")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(color="darkorange", linewidth=3, visible=object_id == query)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def page(
    answers: Sequence[Answer], galaxies: pd.DataFrame, pngs: Mapping[str, bytes], image: np.ndarray, variance: float
) -> str:
    """Write the page: one HTML file that needs nothing else."""
    template = Environment(loader=PackageLoader("jobs"), autoescape=True, trim_blocks=True).get_template("demo.html")
    return template.render(
        encoder=ENCODER,
        answers=answers,
        galaxies=galaxies.set_index(OBJECT_ID).to_dict("index"),
        pngs={object_id: base64.b64encode(png).decode() for object_id, png in pngs.items()},
        jpeg=base64.b64encode(_encoded(image, "JPEG")).decode(),
        shape=image.shape,
        variance=variance,
        pixel_arcsec=PIXEL_ARCSEC,
        centre_deg=CENTRE_DEG,
    )


def _encoded(pixels: np.ndarray, image_format: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=image_format)
    return buffer.getvalue()
