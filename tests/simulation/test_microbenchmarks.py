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


# Loads and stores of the register {0} (and the one after it) at an address, and by how much they move its pointer.
STEPS = {
    "ldr q{0}, {2}": 16,
    "ldr d{0}, {2}": 8,
    "ldr x{0}, {2}": 8,
    "ldp q{0}, q{1}, {2}": 32,
    "ldp d{0}, d{1}, {2}": 16,
    "ld1 {{ v{0}.4s }}, {2}": 16,
    "ld1 {{ v{0}.4s, v{1}.4s }}, {2}": 32,
    "ld1r {{ v{0}.4s }}, {2}": 4,
    "str q{0}, {2}": 16,
    "st1 {{ v{0}.4s }}, {2}": 16,
    "st1 {{ v{0}.4s, v{1}.4s }}, {2}": 32,
}


@pytest.mark.parametrize("name", list_cores())
def test_a_pointer_is_there_for_the_next_load_or_store(name, cycles_of):
    def loop(form, address):
        return assemble([form.format(2 * number, 2 * number + 1, address) for number in range(4)])

    plain = cycles_of(name).of([loop(form, "[x9]") for form in STEPS])
    updating = cycles_of(name).of([loop(form, f"[x9], #{step}") for form, step in STEPS.items()])
    times = zip(STEPS, updating, plain, strict=True)
    # An update takes a cycle, so four take four at least; what waited for the loaded value would take 12 to 20.
    assert {form: (after, before) for form, after, before in times if after > max(1.25 * before, 5)} == {}
