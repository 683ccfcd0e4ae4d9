"""Cycles of arbitrary blocks: robust, deterministic, kept by content, safe among processes."""

import logging
import subprocess
import sys

import pytest

from tvmfbnet.errors import StorageError, UserError
from tvmfbnet.simulation import pipeline
from tvmfbnet.simulation.block_cycles import BlockCycles
from tvmfbnet.simulation.cores import load_core
from tvmfbnet.simulation.disassembly import disassemble
from tvmfbnet.simulation.microbenchmarks import assemble

ADD = bytes.fromhex("00040091")  # add x0, x0, #1
LOOP = ["ldr q1, [x0], #16", "fmla v0.4s, v1.4s, v2.4s", "subs x3, x3, #1", "b.ne #-12"]
FMLA = [f"fmla v{number}.4s, v30.4s, v31.4s" for number in range(16)]
UNUSUAL = {
    "system call": ["mov x8, #64", "svc #0"],
    "atomics": ["ldadd x0, x1, [x2]", "casal x0, x1, [x2]", "ldaxr x0, [x1]", "stlxr w0, x1, [x2]", "cbnz w0, #-8"],
    "call": ["bl #4096"],
    "indirect call": ["ldr x8, [x0]", "blr x8"],
    "return": ["ldp x29, x30, [sp], #16", "ret"],
    "thread pointer": ["mrs x0, tpidr_el0", "ldr x0, [x0, #8]"],
    "barriers": ["dmb ish", "isb", "yield"],
    "cache maintenance": ["dc zva, x0"],
    "address": ["adrp x0, #4096", "ldr x1, #8", "b #64"],
    "vectors": ["ld4 { v0.4s, v1.4s, v2.4s, v3.4s }, [x0]", "zip1 v0.4s, v1.4s, v2.4s", "st1 { v0.s }[1], [x1]"],
    "half and dot": ["fmla v0.8h, v1.8h, v2.8h", "sdot v0.4s, v1.16b, v2.4b[1]", "fcvtl v0.4s, v1.4h"],
    "sve": ["ptrue p0.s", "ld1w { z0.s }, p0/z, [x0]"],
}


@pytest.mark.parametrize("name", ["a53", "a72", "a75", "x1"])
def test_any_block_gets_a_finite_number_of_cycles(name, cycles_of):
    blocks = [assemble(text) for text in UNUSUAL.values()] + [b"", b"\xff\xff\xff\xff", b"\x01\x02\x03"]
    cycles = cycles_of(name).of(blocks)
    assert cycles[-3] == 0
    assert all(0 < value < 200 for value in cycles[:-3] + cycles[-2:])


def test_what_llvm_has_no_model_of_takes_the_stated_cycles_and_is_named_once(cycles_of, caplog):
    cycles = cycles_of("a72")
    caplog.set_level(logging.WARNING)
    atomic, both = cycles.of([assemble(["ldadd x0, x1, [x2]"]), assemble(["ldadd x0, x1, [x2]", "add x4, x5, x6"])])
    assert atomic == load_core("a72").mca.unmodelled_cycles
    assert both > atomic
    cycles.of([assemble(["casal x0, x1, [x2]"])])
    assert [record.message.partition("has no")[2] for record in caplog.records] == [
        " model of ldadd on core a72: each takes 10 cycles"
    ]


def test_a_loop_costs_what_one_more_iteration_costs(cycles_of):
    loop, twice = cycles_of("a76").of([assemble(LOOP), assemble(LOOP[:-2] * 2 + LOOP[-2:])])
    assert loop == pytest.approx(2, abs=0.1)  # the sum waits two cycles for the one before
    assert twice == pytest.approx(4, abs=0.1)


def test_hundreds_of_blocks_in_one_call_are_what_each_is_alone(cycles_of, tmp_path):
    code = assemble(FMLA + LOOP[:2])
    words = [code[start : start + 4] for start in range(0, len(code), 4)]
    blocks = [ADD * (number % 5) + b"".join(words[: 1 + number % 18]) * (1 + number // 60) for number in range(300)]
    together = cycles_of("a55").of(blocks)
    alone = BlockCycles(load_core("a55"), tmp_path / "other")
    assert [alone.of([block])[0] for block in blocks[5:300:97]] == together[5:300:97]


def test_answers_are_kept_by_content_core_and_version(cycles_of, tmp_path, monkeypatch):
    block = assemble(LOOP)
    before = cycles_of("a72").of([block])

    def fail(*_):
        raise AssertionError("asked again")

    with monkeypatch.context() as patched:
        patched.setattr("tvmfbnet.simulation.block_cycles.schedule", fail)
        assert cycles_of("a72").of([block, block]) == before * 2
        with pytest.raises(AssertionError):
            cycles_of("a76").of([block])
        patched.setattr("tvmfbnet.simulation.block_cycles.REVISION", pipeline.REVISION + 1)
        with pytest.raises(AssertionError):
            cycles_of("a72").of([block])


def test_a_damaged_cache_is_set_aside(cycles_of, tmp_path, caplog):
    (tmp_path / "block_cycles.sqlite").write_bytes(b"no database" * 1000)
    first = cycles_of("a76").of([assemble(LOOP)])
    assert "was damaged" in caplog.text
    assert (tmp_path / "block_cycles.damaged").exists()
    assert cycles_of("a76").of([assemble(LOOP)]) == first


def test_a_cache_that_cannot_be_opened_is_one_clear_line(cycles_of, tmp_path):
    (tmp_path / "block_cycles.sqlite").mkdir()
    with pytest.raises(StorageError, match=r"cannot open .*block_cycles\.sqlite"):
        cycles_of("a76").of([assemble(LOOP)])


WRITER = """
import sys
from pathlib import Path
from tvmfbnet.simulation.block_cycles import BlockCycles
from tvmfbnet.simulation.cores import load_core
blocks = [bytes.fromhex("00040091") * count for count in range(1, 40)]
print(BlockCycles(load_core("a76"), Path(sys.argv[1])).of(blocks))
"""


def test_processes_share_a_cache(llvm, tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {process.communicate(timeout=120)[0] for process in processes}
    assert len(said) == 1
    assert said == {subprocess.run(command, capture_output=True, text=True, timeout=120).stdout}


def test_a_block_on_which_llvm_fails_takes_the_fallback_and_spares_the_others(cycles_of, monkeypatch):
    run = pipeline._run

    def failing(llvm, mca, texts, iterations):
        return None if ["nop"] in texts else run(llvm, mca, texts, iterations)

    expected = cycles_of("a72").of([assemble(LOOP)])
    monkeypatch.setattr(pipeline, "_run", failing)
    cycles = cycles_of("a76").of([ADD, assemble(["nop"]), assemble(LOOP)])
    assert cycles[1] == pytest.approx(10.25)
    assert cycles[0] == pytest.approx(1, abs=0.1) and cycles[2] > 1
    assert expected


def test_missing_tools_are_known_at_once(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="llvm-mca"):
        BlockCycles(load_core("a76"), tmp_path)


def test_x86_blocks_end_at_an_instruction_that_was_cut(llvm):
    blocks = [bytes.fromhex("c4e2f5b8c2"), bytes.fromhex("4889c80fff06ff"), b"", bytes.fromhex("75f0")]
    read = disassemble(llvm, "x86_64", blocks)
    assert [block.instructions for block in read] == [
        ("vfmadd231pd %ymm2, %ymm1, %ymm0",),
        ("movq %rcx, %rax",),
        (),
        ("jne -16",),
    ]
    assert [block.invalid for block in read] == [0, 0, 0, 0]
    assert disassemble(llvm, "x86_64", [bytes.fromhex("0fff06ff")])[0].invalid == 1


def test_the_instruction_between_blocks_cannot_be_in_one(llvm):
    with pytest.raises(ValueError, match="separates blocks"):
        disassemble(llvm, "aarch64", [assemble(["hlt #0xbeef"])])
