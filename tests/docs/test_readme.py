"""What README says of versions and extras is what the package declares."""

import re
import tomllib

from documented import ROOT

README = " ".join((ROOT / "README.md").read_text().split())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_python_versions_are_those_of_the_package():
    named = sorted(
        re.findall(r"Python :: (3\.\d+)$", "\n".join(PROJECT["classifiers"]), re.M), key=lambda v: int(v[2:])
    )
    lowest, highest = named[0], named[-1]
    assert f"Python {lowest} to {highest}:" in README
    assert PROJECT["requires-python"] == f">={lowest},<3.{int(highest[2:]) + 1}"
    assert named == [f"3.{minor}" for minor in range(int(lowest[2:]), int(highest[2:]) + 1)]


def test_the_extras_are_those_of_the_package():
    named = set(re.findall(r"`(?:'tvmfbnet)?\[(\w+)\]'?`", README))
    assert named == set(PROJECT["optional-dependencies"]) - {"dev", "docs"}


def test_every_page_of_results_names_the_kind_of_core():
    pages = sorted((ROOT / "docs/results").glob("*.md"))
    assert len(pages) > 20
    named = re.compile(r"Zen \d|znver\d|[Kk]ind (of core )?not recorded")
    assert not [page.name for page in pages if not named.search(page.read_text())]
    machines = [row for page in pages for row in re.findall(r"(?m)^\| machine \|.*\n\|-.*\n(\|.*)", page.read_text())]
    assert len(machines) > 20
    assert not [row for row in machines if not named.search(row)]
