"""The site has pages that lie elsewhere in the repository too; links to them, and to other files, lead to copies in it."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
#: A link to a file outside of docs, from a page of docs: ](../benchmarks/RESULTS.md#clean)
OUTWARD = re.compile(r"\[([^\]]*)\]\(\.\./([^)#\s]+)(#[^)\s]*)?\)")
#: Files that are pages of the site.
PAGES = (
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/RESULTS.md", "flows/README.md",
    "curate/embedding/tiny/MODEL_CARD.md",
)  # fmt: skip
_LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s:]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie elsewhere, and the files that pages of docs link to."""
    wanted = set(PAGES)
    for page in ROOT.glob("docs/*.md"):
        wanted |= {name for _, name, _ in OUTWARD.findall(page.read_text(encoding="utf-8"))}
    for name in sorted(wanted):
        if (ROOT / name).is_file() and files.get_file_from_path(name) is None:
            files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links as they are in the repository into links of the site; one to a folder becomes its name."""
    name = page.file.src_uri
    if "/" in name.removeprefix("docs/") or name in PAGES:
        return _LINK.sub(lambda match: _from_elsewhere(match, name, files), markdown)
    return OUTWARD.sub(lambda match: _linked(match, files), markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Let the search of a page opened from disk find its worker beside it: the theme would fetch it."""
    up = "../" * page.url.count("/")
    return output.replace("https://unpkg.com/iframe-worker/shim", f"{up}style/iframe-worker.js")


def on_post_template(output: str, template_name: str, config: MkDocsConfig) -> str:
    """Do the same for what is no page of docs (404.html)."""
    return output.replace("https://unpkg.com/iframe-worker/shim", "style/iframe-worker.js")


def _linked(match: re.Match[str], files: Files) -> str:
    text, name, heading = match[1], match[2], match[3] or ""
    if files.get_file_from_path(name) is None:
        return f"{text} (`{name}`)"
    return f"[{text}]({name}{heading})"


def _from_elsewhere(match: re.Match[str], page: str, files: Files) -> str:
    """Return a link of a page outside of docs: to the file it means, by its path in the site."""
    text, heading = match[1], match[3] or ""
    target = (ROOT / page).parent / match[2]
    try:
        name = target.resolve().relative_to(ROOT).as_posix()
    except ValueError:
        return match[0]
    inside = name.removeprefix("docs/")
    if files.get_file_from_path(inside) is None:
        return f"{text} (`{name}`)"
    up = "../" * page.count("/")
    return f"[{text}]({up}{inside}{heading})"
