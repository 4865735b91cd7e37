"""What mkdocs is told beside mkdocs.yml: the results of benchmarks are pages of the site, wherever they lie."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

RESULTS = "tests/benchmarks/results"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List every result in the navigation."""
    section = next(part["Benchmarks"] for part in config.nav or [] if "Benchmarks" in part)
    section += [{f"make bench-{path.stem}": f"benchmarks/{path.name}"} for path in _results(config)]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every result as a page."""
    for path in _results(config):
        files.append(File.generated(config, f"benchmarks/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to results lead to their pages."""
    return markdown.replace(f"](../{RESULTS}/", "](benchmarks/")


def _results(config: MkDocsConfig) -> list[Path]:
    return sorted((Path(config.docs_dir).parent / RESULTS).glob("*.md"))
