"""Cycles that are estimated before any trial: tiles that spill, wait or copy cost more than those that do not."""

from dataclasses import replace

import pytest

from tvmfbnet.autotune.cpu_space import all_knobs
from tvmfbnet.autotune.cycles import cycles_per_product
from tvmfbnet.autotune.kernel_shape import KernelShape
from tvmfbnet.autotune.knobs import Knobs
from tvmfbnet.autotune.machines import heuristic, prior
from tvmfbnet.autotune.registers import Registers

AVX2 = Registers(16, 32)
POINTWISE = KernelShape("conv", 14, 14, 112, reduction=64, group=112, extra=2)
DEPTHWISE = KernelShape("depthwise", 14, 14, 384, kernel=5, padded=True, extra=2)


def cycles(shape, rows, columns, channels, lanes=8, **more):
    return cycles_per_product(shape, Knobs(rows, columns, channels, lanes, **more), AVX2)


def test_full_vectors_that_hide_latency_in_registers_cost_least():
    good = cycles(POINTWISE, 2, 2, 16)
    assert 1 / 16 < good < 1.6 / 16  # two multiply-adds of eight lanes a cycle, and what is around them
    assert cycles(POINTWISE, 1, 7, 16) > 1.5 * good  # 14 sums, 2 weights and an input spill
    assert cycles(POINTWISE, 1, 2, 16) > 1.5 * good  # 4 sums wait for each other
    assert cycles(POINTWISE, 2, 2, 8, lanes=4) > 1.5 * good  # half a register each
    assert cycles(POINTWISE, 1, 14, 8) > 1.5 * good  # one vector of many pixels
    assert cycles(POINTWISE, 1, 7, 8, unroll=8) > cycles(POINTWISE, 1, 7, 8, unroll=2)


def test_large_weights_pass_by_once():
    large = replace(POINTWISE, channels=1120, group=1120, reduction=672)
    assert cycles(large, 2, 2, 16, order="cyx") < cycles(large, 2, 2, 16, order="yxc")
    small = replace(POINTWISE, reduction=16)
    assert cycles(small, 2, 2, 16, order="cyx") == pytest.approx(cycles(small, 2, 2, 16, order="yxc"))


def test_depthwise_tiles_are_rows_whose_padding_is_not_stored():
    good = cycles(DEPTHWISE, 1, 7, 8)
    assert good < cycles(DEPTHWISE, 7, 1, 8) and good < cycles(DEPTHWISE, 1, 1, 8)
    assert 1.3 * good < cycles(DEPTHWISE, 1, 7, 8, padding="whole")
    assert good < cycles(replace(DEPTHWISE, padded=False), 1, 14, 8)
    assert cycles(replace(DEPTHWISE, padded=False), 1, 7, 8) < good


def test_only_float32_on_x86_is_estimated():
    ways = all_knobs(POINTWISE, AVX2)
    assert len({prior(POINTWISE, knobs, AVX2) for knobs in ways}) > 50
    best = min(ways, key=lambda knobs: heuristic(POINTWISE, knobs, AVX2))
    assert (best.rows * best.columns, best.channels, best.lanes) == (4, 16, 8)
    for machine in (Registers(32, 16, reads_operands=False), Registers(16, 0)):
        assert {prior(POINTWISE, knobs, machine) for knobs in all_knobs(POINTWISE, machine)} == {0.0}
    for other in (replace(POINTWISE, element_bytes=2), replace(POINTWISE, kind="pool", kernel=14)):
        assert prior(other, best, AVX2) == 0.0
