"""The documentation site builds with every link and anchor in place, and loads nothing from other hosts."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from documented import ROOT

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("mkdocs", "material")),
    reason="mkdocs-material is not installed; scripts/setup --docs installs it",
)


def build(home, out):
    """Builds the site of a checkout, as scripts/docs does."""
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(words, cwd=home, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    done = build(ROOT, out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture
def checkout(tmp_path):
    """A copy of what the site is made of, to break."""
    for name in ("mkdocs.yml", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/docs_hooks.py", tmp_path / "scripts")
    return tmp_path


def test_every_page_is_built_and_in_the_navigation(site):
    start = (site / "index.html").read_text()
    pages = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")]
    for page in [*pages, "security.md", "contributing.md", "changelog.md"]:
        place = page.replace("README.md", "index.md").replace(".md", ".html")
        assert (site / place).is_file(), place
        # The start page links to itself as "." and is what is read here.
        assert f'href="{place}"' in start or place == "index.html", f"{place} is not in the navigation"


def test_nothing_is_loaded_from_other_hosts(site):
    loading = r'<(?:script|img|iframe|source|link)\b[^>]*?(?:src|href)="((?:https?:)?//[^"]+)'
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    assert not {(page.name, host) for page in pages for host in re.findall(loading, page.read_text())}


def test_lists_and_tables_are_rendered(site):
    """A list or table right below a paragraph is one on GitHub and text here: it needs an empty line before it."""
    broken = {
        (page.name, text[:60])
        for page in site.rglob("*.html")
        for text in re.findall(r"(?s)<p>(.*?)</p>", page.read_text())
        if re.search(r"(?m)^(?:[-*] |1\. |\|.*\|$)", text)
    }
    assert not broken


@pytest.mark.parametrize(
    ("page", "text", "complaint"),
    [
        ("tutorial/demo.md", "[x](nowhere.md)", "nowhere.md"),
        ("tutorial/demo.md", "[x](own-images.md#nowhere)", "#nowhere"),
        ("tutorial/demo.md", "[x](../../pyproject.toml)", "pyproject.toml"),
        ("../SECURITY.md", "[x](docs/no.where.md)", "no.where.md"),
        ("tutorial/new.md", "# A page that no menu names", "new.md"),
    ],
)
def test_a_broken_link_fails_the_build(checkout, page, text, complaint):
    with (checkout / "docs" / page).open("a") as file:
        file.write(f"\n{text}\n")
    done = build(checkout, checkout / "out")
    assert done.returncode == 1
    assert complaint in done.stdout + done.stderr


def test_the_navigation_has_the_four_kinds_apart():
    text = re.sub(r"!!python/\S+ ", "", (ROOT / "mkdocs.yml").read_text())
    sections = {title: yaml.safe_dump(pages) for part in yaml.safe_load(text)["nav"] for title, pages in part.items()}
    for title, folder in {"Tutorials": "tutorial", "How-to guides": "how-to", "Reference": "reference"}.items():
        assert {page.split("/")[0] for page in re.findall(r"[\w/-]+/[\w-]+\.md", sections[title])} == {folder}
    assert {"Start", "Explanation", "Results"} <= set(sections)
