"""The documentation is a site: it builds without a warning, loads nothing from elsewhere, and every page is found."""

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


def test_every_page_is_in_the_site_and_in_its_navigation(site: Path) -> None:
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    home = (site / "index.html").read_text()
    for name in pages:
        address = name.replace(".md", ".html")
        assert (site / address).exists()
        assert f'href="{address}"' in home, f"{name}: add it to the navigation in mkdocs.yml"


def test_the_results_of_every_benchmark_are_pages(site: Path) -> None:
    results = list((ROOT / "tests" / "benchmarks" / "results").glob("*.md"))
    assert len(results) > 3
    for path in results:
        title = path.read_text().splitlines()[0].removeprefix("# ")
        assert title in (site / "benchmarks" / f"{path.stem}.html").read_text()
        assert f'href="benchmarks/{path.stem}.html"' in (site / "index.html").read_text()


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        tags = re.findall(r"<(?:script|link|img|iframe|source|form)\b[^>]*>", page.read_text())
        loaded = [tag for tag in tags if re.search(r"(?:src|href|action)=\"?(?:https?:)?//", tag)]
        assert not [tag for tag in loaded if 'rel="canonical"' not in tag], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(\"?(?:https?:)?//|@import", sheet.read_text()), sheet


def test_pictures_that_are_drawn_are_well_formed_and_load_nothing() -> None:
    for path in (ROOT / "docs" / "figures").glob("*.svg"):
        text = path.read_text()
        ElementTree.fromstring(text)
        assert "<image" not in text
        assert "@import" not in text
