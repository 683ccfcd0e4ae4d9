"""Hooks of the documentation site: SECURITY, CONTRIBUTING and CHANGELOG, which lie beside ``docs/``, become pages too.

Links are written as they work in the repository, where a page of ``docs/`` may point out of it and those three into it.
Here each becomes a link between pages of the site; one that leads to no page fails the strict build.
"""

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
# Pages of the site by their path in the repository, as far as that is not docs/PAGE.
ROOT_PAGES = {"SECURITY.md": "security.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
SITE_PAGES = {**ROOT_PAGES, "README.md": "README.md"}
log = logging.getLogger("mkdocs.hooks.tvmfbnet")


def on_files(files: Any, config: Any) -> Any:
    """Adds the root pages to those of ``docs/``."""
    for source, page in ROOT_PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Points links across the border of ``docs/`` to the site's pages."""
    sources = {site: source for source, site in ROOT_PAGES.items()}
    source = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def site_link(match: re.Match[str]) -> str:
        place, hash_sign, anchor = match[1].partition("#")
        if not place or re.match(r"[a-z]+:", place):
            return match[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), place))
        if target in SITE_PAGES:
            target = SITE_PAGES[target]
        elif target.startswith("docs/"):
            target = target.removeprefix("docs/")
        else:
            log.warning("%s links to '%s', which is no page of the site.", source, place)
        return f"]({posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or '.')}{hash_sign}{anchor})"

    return re.sub(r"\]\(([^)\s]+)\)", site_link, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Marks short cells of tables, such as ``-2.2 %`` or a date: they stay on one line."""
    return re.sub(r"<td>([^<]{1,12})</td>", r'<td class="short">\1</td>', html)
