"""Every shipped core is complete, says where its figures come from, and has an identity."""

from pathlib import Path

import pytest
import yaml

from tvmfbnet.config import validate
from tvmfbnet.errors import ConfigError, UserError
from tvmfbnet.simulation.cores import CORES, Core, list_cores, load_core

DOCS = Path(__file__).resolve().parents[2] / "docs/reference"


def plain(name: str = "a72") -> dict:
    return yaml.safe_load(CORES.path(name).read_text())


def changed(**fields: object) -> Core:
    return validate(Core, {**plain(), **fields}, "core.yaml")


def test_the_cores_of_the_docs_are_shipped():
    assert list_cores() == ["a53", "a55", "a72", "a75", "a76", "x1"]


@pytest.mark.parametrize("name", list_cores())
def test_a_shipped_core_is_named_after_its_file_and_documented(name):
    core = load_core(name)
    assert core.name == name
    assert core.documented is not None
    assert core.caches[0].latency_cycles in (3, 4)


@pytest.mark.parametrize("name", list_cores())
def test_a_page_says_what_the_model_of_a_core_lacks(name):
    core, page = load_core(name), (DOCS / "cores" / f"{name}.md").read_text()
    caches = ", ".join(f"{cache.size_kb} KiB in {cache.ways} ways" for cache in core.caches)
    row = [f"`{name}`", core.device, f"`{core.mca.cpu}`", f"{core.frequency_ghz:g} GHz", caches]
    row.append(f"{core.memory.latency_ns:g} ns, {core.memory.gbps:g} GB/s")
    assert f"| {' | '.join(row)} |" in page
    assert "## What it lacks\n\n- **" in page and f"[`{name}`](cores/{name}.md)" in (DOCS / "cores.md").read_text()


@pytest.mark.parametrize("name", list_cores())
def test_every_figure_of_memory_says_its_source_or_that_it_is_an_estimate(name):
    lines = CORES.path(name).read_text().splitlines()
    for number, line in enumerate(lines):
        if line.strip().startswith(("- {size_kb", "memory:", "prefetch:", "overlap:")):
            said = line if "#" in line else lines[number - 1]
            assert "#" in said, f"{name}: no source beside {line.strip()}"


def test_the_identity_covers_what_changes_times_and_nothing_else():
    core = load_core("a72")
    assert changed().digest == core.digest
    assert changed(description="another text", device="another board").digest == core.digest
    mca = plain()["mca"]
    told = [{**item, "source": "another document"} for item in mca["substitutions"]]
    assert changed(mca={**mca, "substitutions": told}).digest == core.digest
    assert changed(mca={**mca, "substitutions": told[:1]}).digest != core.digest
    assert changed(frequency_ghz=1.8).digest != core.digest
    assert changed(frequency_ghz=1.8).pipeline_digest == core.pipeline_digest
    assert changed(mca={**mca, "dispatch": 4}).pipeline_digest != core.pipeline_digest
    assert len({load_core(name).digest for name in list_cores()}) == len(list_cores())


def test_an_unknown_core_is_named_with_those_there_are():
    with pytest.raises(UserError, match=r"unknown core 'a77': .*a72, a75, a76"):
        load_core("a77")


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"caches": []}, "caches"),
        ({"caches": [{"size_kb": 48, "ways": 4, "latency_cycles": 4, "bytes_per_cycle": 16}]}, "power-of-two number"),
        ({"caches": [plain()["caches"][1], plain()["caches"][0]]}, "larger and slower"),
        ({"overlap": 1.0}, "overlap"),
        ({"mca": {"cpu": "a b"}}, "mca.cpu"),
        (
            {"mca": {"cpu": "x", "limits": [{"name": "n", "uses": [{"match": "(", "cycles": 1}], "source": "s"}]}},
            "regular",
        ),
        ({"mca": {"cpu": "x", "substitutions": [{"match": "a", "schedule_as": r"\1", "source": "s"}]}}, "a group"),
        ({"documented": {**plain("a55")["documented"], "loads_per_cycle": None}}, "needed where loads_beside_fma"),
        ({"speed": 3}, "speed: unknown name"),
    ],
)
def test_a_malformed_core_is_one_clear_line(fields, said):
    with pytest.raises(ConfigError, match=said) as raised:
        changed(**fields)
    assert "\n" not in str(raised.value)
