"""The pipelines of the shipped cores show the throughputs that public documents give."""

import pytest

from tvmfbnet.errors import UserError
from tvmfbnet.simulation.cores import list_cores, load_core
from tvmfbnet.simulation.microbenchmarks import assemble, compare


@pytest.mark.parametrize("name", list_cores())
def test_a_core_is_within_a_tenth_of_the_documented_throughput(name, cycles_of):
    comparisons = compare(load_core(name), cycles_of(name))
    assert len(comparisons) >= 4
    assert {row.name: row.error for row in comparisons if abs(row.error) > 0.10} == {}


def test_without_its_corrections_a_core_would_fail(llvm, tmp_path):
    from tvmfbnet.simulation.block_cycles import BlockCycles

    core = load_core("a55")
    plain = core.model_copy(update={"mca": core.mca.model_copy(update={"substitutions": [], "limits": []})})
    errors = {row.name: row.error for row in compare(plain, BlockCycles(plain, tmp_path))}
    assert errors["independent fmla"] < -0.4  # LLVM's two fmla per cycle


def test_a_core_without_documented_figures_cannot_be_compared(cycles_of):
    core = load_core("a76").model_copy(update={"documented": None})
    with pytest.raises(UserError, match="no section documented"):
        compare(core, cycles_of("a76"))


def test_a_malformed_instruction_is_not_assembled(llvm):
    with pytest.raises(ValueError, match="cannot assemble"):
        assemble(["fmla v0.4s, v1.4s"])
