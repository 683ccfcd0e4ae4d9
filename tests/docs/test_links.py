"""Links between README, docs and headings lead somewhere, and so do the docs pages that code and messages name."""

import re

import pytest
from documented import ROOT, pages

NAMING = ("tvmfbnet", "device", "scripts", "targets", "benchmarks", "tests")
MARKDOWN = [*pages(), "CHANGELOG.md"]


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"(?m)^#+ (.+)$", page.read_text())
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", MARKDOWN)
def test_links_of_a_page_lead_somewhere(page):
    home, broken = (ROOT / page).parent, []
    for link in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text()):
        place, _, anchor = link.partition("#")
        if place.startswith(("http://", "https://")):
            continue
        target = home / place if place else ROOT / page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_every_page_is_in_the_index():
    texts = [(ROOT / "docs" / name) for name in ("README.md", "results/README.md", "reference/cores.md")]
    linked = {
        (text.parent / link).resolve() for text in texts for link in re.findall(r"\]\(([^)#\s]+)", text.read_text())
    }
    assert set((ROOT / "docs").rglob("*.md")) - {ROOT / "docs/README.md"} <= linked


def test_pages_that_code_names_exist():
    named = {
        (str(file.relative_to(ROOT)), page)
        for folder in NAMING
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and file.suffix in ("", ".py", ".cc", ".h", ".yaml") and "__pycache__" not in file.parts
        for page in re.findall(r"docs/[\w/-]+\.md", file.read_text(errors="ignore"))
    }
    assert not [(file, page) for file, page in named if page != "docs/x.md" and not (ROOT / page).is_file()]
