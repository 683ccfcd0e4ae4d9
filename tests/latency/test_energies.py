"""Energies beside the latencies of a table: the newest of the same context, kernels and source; and bad files."""

from dataclasses import replace

import pytest
from latency_samples import CONTEXT, PART, measurement

from tvmfbnet.errors import StorageError
from tvmfbnet.latency.energies import EnergyMeasurement, energy_journal
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.measurement import OVERHEAD_PART
from tvmfbnet.latency.repository import journal_path, load_table


def told(part=PART, **changes):
    values = {"context": CONTEXT, "part": part, "energy_mj": 2.0, "spread_mj": 0.1, "loop_mj": 9.0, "latency_ms": 1.0}
    values |= {"idle_watts": 3.0, "source": "rapl", "rounds": 5, "inferences": 100, "trials": 24}
    return EnergyMeasurement(**{**values, **changes})


def table_with(tmp_path, *energies):
    path = journal_path("host", tmp_path)
    if not path.exists():
        Journal(path).append(measurement(trials=24))
    for energy in energies:
        energy_journal(path).append(energy)
    return load_table("host", tmp_path)


def test_the_table_has_the_newest_energies_of_its_own_context_and_of_todays_kernels(tmp_path):
    assert not table_with(tmp_path).energies
    elsewhere = told(context=replace(CONTEXT, device_model="another"), energy_mj=7.0)
    table = table_with(tmp_path, told(energy_mj=5.0), told(), elsewhere, told(OVERHEAD_PART, energy_mj=0.5, trials=0))
    assert table.energies.of(PART) == (2.0, 0.1) and table.energies.call == (0.5, 0.1)
    assert table.energies.source == "rapl"
    Journal(journal_path("host", tmp_path)).append(measurement(trials=48))
    assert table_with(tmp_path).energies.missing([PART]) == [PART]


def test_energies_of_two_sources_never_mix(tmp_path, capsys):
    table = table_with(tmp_path, told(OVERHEAD_PART, energy_mj=0.5, trials=0), told(source="hwmon", energy_mj=4.0))
    assert (table.energies.source, table.energies.by_part) == ("hwmon", {PART: (4.0, 0.1)})
    assert "has energies of rapl as well; those of hwmon are used" in " ".join(capsys.readouterr().err.split())


def test_a_torn_line_of_energies_is_skipped_and_a_newer_version_refused(tmp_path, capsys):
    table_with(tmp_path, told())
    path = journal_path("host", tmp_path).with_name("energy.jsonl")
    path.write_text(path.read_text() + '{"schema_version":1,"con\n')
    assert load_table("host", tmp_path).energies.of(PART) == (2.0, 0.1)
    assert "is no valid measurement of energy and is skipped" in " ".join(capsys.readouterr().err.split())
    path.write_text(path.read_text() + '{"schema_version":2}\n')
    with pytest.raises(StorageError, match="was written by a newer tvmfbnet"):
        load_table("host", tmp_path)
