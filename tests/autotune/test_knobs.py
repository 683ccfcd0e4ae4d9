"""Knobs: every listed way to schedule a kernel is legal and fits the registers; the cost model finds the fast ones."""

import hashlib
import json
from dataclasses import replace

import pytest

from tvmfbnet.autotune.cost_model import TrialCostModel
from tvmfbnet.autotune.cpu_space import all_knobs
from tvmfbnet.autotune.features import FEATURES, features
from tvmfbnet.autotune.kernel_shape import KernelShape
from tvmfbnet.autotune.knobs import Knobs, summed
from tvmfbnet.autotune.registers import Registers, accumulators

AVX512, NEON = Registers(32, 64), Registers(32, 16, reads_operands=False)
# What x86 gets, so that logs and databases stay what they are: (registers, candidates, digest of them and their ranks).
X86 = [
    (AVX512, 3428, "3e294697e47ff75f"),
    (Registers(16, 32, threads=4), 7563, "ec92ca7427b9758f"),
    (Registers(32, 64, halves=True), 4892, "016a5ef50738834d"),
]

SHAPES = [
    KernelShape("conv", 112, 112, 16, kernel=3, stride=2, reduction=3, group=16, padded=True, extra=2),
    KernelShape("conv", 7, 7, 184, reduction=1104, group=184, extra=3),
    KernelShape("conv", 28, 28, 32, reduction=16, group=16, extra=1),
    KernelShape("depthwise", 14, 14, 384, kernel=5, padded=True, extra=2),
    KernelShape("matmul", 1, 1, 1000, reduction=1984, group=1000, extra=1),
    KernelShape("matmul", 1, 1, 10, reduction=64, group=10, extra=1),
    KernelShape("pool", 1, 1, 1984, kernel=7, group=1984, extra=1),
    KernelShape("move", 224, 224, 3),
]


@pytest.mark.parametrize("registers", [AVX512, NEON])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape.kind}-{shape.channels}")
def test_tiles_divide_the_output_and_fit_the_registers(shape, registers):
    ways = all_knobs(shape, registers)
    assert ways and len({knobs.key for knobs in ways}) == len(ways)
    span = shape.channels if shape.kind in ("depthwise", "pool", "move") else shape.group
    for knobs in ways:
        assert shape.width % knobs.columns == 0 and shape.height % knobs.rows == 0
        assert span % knobs.channels == 0 and knobs.channels % knobs.lanes == 0
        assert shape.reduction % knobs.unroll == 0
        assert accumulators(shape, knobs, registers) <= registers.count
        assert len(features(shape, knobs, registers)) == len(FEATURES)


def test_tiles_are_cut_only_where_few_registers_have_none_of_a_good_size():
    avx2, prime = Registers(16, 32), KernelShape("conv", 7, 7, 184, reduction=1104, group=184)
    tiles = {(knobs.rows * knobs.columns, knobs.channels // 8) for knobs in all_knobs(prime, avx2) if knobs.lanes == 8}
    assert {(5, 2), (4, 3), (7, 1), (7, 2)} <= tiles
    for shape in (
        replace(prime, height=14, width=14, channels=96, group=96),  # tiles of 2x2 pixels and of 2 vectors
        replace(prime, kernel=3, padded=True),
        replace(prime, stride=2),
        replace(prime, kind="matmul", height=1, width=1),
    ):
        assert not any(any(shape.cuts(knobs.columns, knobs.channels)) for knobs in all_knobs(shape, avx2))
    grouped = all_knobs(replace(prime, channels=368, group=184), avx2)
    assert {prime.cuts(knobs.columns, knobs.channels) for knobs in grouped} == {(False, False), (False, True)}
    for registers in (AVX512, NEON, Registers(16, 0)):
        assert not any(any(prime.cuts(knobs.columns, knobs.channels)) for knobs in all_knobs(prime, registers))


@pytest.mark.parametrize(("side", "rows"), [(14, {1, 2}), (28, {1, 2, 4}), (7, {1, 7})])
def test_tiles_of_rows_that_share_words_begin_with_the_first_of_them_where_the_height_is_even(side, rows):
    taps = {"kernel": 5, "padded": True, "dot": "vpmaddwd", "dot_group": 2, "dot_lanes": 8}
    shape = KernelShape("depthwise", side, side, 384, group=384, **taps)
    avx2 = Registers(16, 32)
    assert {knobs.rows for knobs in all_knobs(replace(shape, dot_rows=2), avx2)} == rows
    assert rows <= {knobs.rows for knobs in all_knobs(shape, avx2)}


@pytest.mark.parametrize(("width", "padded"), [(14, False), (7, True)])
def test_tiles_of_pixel_pairs_end_between_pairs_or_with_the_row(width, padded):
    pairs = {"element_bytes": 1, "dot": "smmla", "dot_group": 8, "dot_lanes": 2, "dot_pixels": 2}
    shape = KernelShape("conv", width, width, 184, reduction=1104, group=184, padded=padded, **pairs)
    ways = all_knobs(shape, NEON)
    for knobs in ways:
        assert knobs.columns % 2 == 0 or knobs.columns == width
        assert accumulators(shape, knobs, NEON) == knobs.rows * -(-knobs.columns // 2) * knobs.channels // 2 <= 32
    # Only rows of whole pairs can be read where they are.
    assert ("inline" in {knobs.padding for knobs in ways}) is not padded


def test_the_cost_model_generalises_from_other_kernels_to_a_new_one():
    def invented_ms(shape, knobs):
        return shape.products * (1.0 + 3.0 / accumulators(shape, knobs, AVX512) + (knobs.order == "yxc"))

    cost_model = TrialCostModel(AVX512)
    trained_shapes = [KernelShape("conv", 14, 14, width, reduction=64, group=width) for width in (32, 64, 96)]
    new = KernelShape("conv", 14, 14, 128, reduction=64, group=128)
    rows = cost_model.rows(new, all_knobs(new, AVX512))
    assert cost_model.predict_ms(new, rows) is None
    for shape in trained_shapes:
        for knobs in all_knobs(shape, AVX512)[::7]:
            cost_model.add(shape, knobs, invented_ms(shape, knobs))
    predicted = cost_model.predict_ms(new, rows)
    actual = [invented_ms(new, knobs) for knobs in all_knobs(new, AVX512)]
    chosen = int(predicted.argmin())
    assert actual[chosen] <= 1.02 * min(actual)
    assert predicted[chosen] == pytest.approx(actual[chosen], rel=0.15)


def test_ways_that_failed_are_ranked_behind_those_that_ran():
    cost_model, shape = TrialCostModel(AVX512), KernelShape("conv", 28, 28, 64, reduction=32, group=64)
    ways = all_knobs(shape, AVX512)
    for knobs in ways:
        cost_model.add(shape, knobs, None if knobs.order == "cyx" else 1.0)
    predicted = cost_model.predict_ms(shape, cost_model.rows(shape, ways))
    failing = [knobs.order == "cyx" for knobs in ways]
    assert predicted[failing].min() > 2 * predicted[[not fails for fails in failing]].max()


HALVES = KernelShape("conv", 14, 14, 64, reduction=384, group=64, extra=1, element_bytes=2)


@pytest.mark.parametrize(("registers", "count", "digest"), X86, ids=["avx512", "avx2", "halves"])
def test_candidates_of_x86_and_their_order_stay_as_they_are(registers, count, digest):
    cost_model, lines = TrialCostModel(registers), []
    for shape in (*SHAPES[1:5], HALVES):
        for knobs in all_knobs(shape, registers):
            lines.append(json.dumps(knobs.to_dict()) + f"{cost_model.heuristic(shape, knobs):.6f}")
    assert (len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]) == (count, digest)


@pytest.mark.parametrize("shape", [*SHAPES, HALVES], ids=lambda shape: f"{shape.kind}-{shape.channels}")
def test_tiles_of_neon_leave_registers_for_weights_and_inputs(shape):
    registers = replace(NEON, halves=True)
    for knobs in all_knobs(shape, registers):
        sums, positions = accumulators(shape, knobs, registers), knobs.rows * knobs.columns
        if shape.kind == "conv":
            assert sums + positions + knobs.channels // knobs.lanes <= 32
        if shape.kind == "depthwise" and shape.kernel == 3 and not knobs.order.endswith("c"):
            assert sums + 9 * knobs.channels // knobs.lanes < 32
        assert knobs.staged == 0 or (shape.kind == "conv" and knobs.unroll % knobs.staged == 0)
        assert knobs.staged == 0 or not shape.padded or knobs.padding != "inline"
        # The log names staging only where it happens, and reads what it wrote, and lines from before it.
        assert ("staged" in knobs.to_dict()) == (knobs.staged > 0)
        assert Knobs(**knobs.to_dict()) == knobs


@pytest.mark.parametrize("shape", [SHAPES[1], HALVES], ids=["float32", "float16"])
def test_the_first_candidates_of_neon_load_inputs_as_vectors_and_hide_latency(shape):
    registers = replace(NEON, halves=True)
    cost_model, ways = TrialCostModel(registers), all_knobs(shape, registers)
    for knobs in sorted(ways, key=lambda knobs: cost_model.heuristic(shape, knobs))[:10]:
        assert knobs.staged * summed(shape, knobs).sum_bytes == 16
        assert accumulators(shape, knobs, registers) >= 12


def test_few_input_channels_of_arm_kernels_may_be_multiplied_without_a_loop():
    for reduction, unrolls in ((16, {16, 1, 2, 4, 8}), (24, {24, 1, 2, 4, 8}), (8, {1, 2, 4, 8}), (64, {1, 2, 4, 8})):
        shape = KernelShape("conv", 28, 28, 96, reduction=reduction, group=96)
        assert {knobs.unroll for knobs in all_knobs(shape, NEON)} == unrolls
        assert {knobs.unroll for knobs in all_knobs(shape, AVX512)} == {1, 2, 4, 8}
    assert {knobs.unroll for knobs in all_knobs(SHAPES[3], NEON)} == {1}


def test_in_order_cores_first_load_a_depthwise_tile_in_halves_that_fit_beside_sums_and_weights():
    registers, cost_model = replace(NEON, in_order=True), TrialCostModel(replace(NEON, in_order=True))
    for shape in (SHAPES[3], replace(SHAPES[3], kernel=3), replace(SHAPES[3], kernel=3, stride=2)):
        ways = all_knobs(shape, registers)
        for knobs in ways:
            row = knobs.rows * ((knobs.columns - 1) * shape.stride + shape.kernel)
            assert knobs.staged == 0 or (knobs.staged, knobs.lanes, knobs.padding) == (2, 4, "border")
            assert knobs.staged == 0 or knobs.channels // 4 * (knobs.rows * knobs.columns + row + 9) <= 32
        assert min(ways, key=lambda knobs: cost_model.heuristic(shape, knobs)).staged == 2
        assert not any(knobs.staged for knobs in all_knobs(shape, NEON))


def test_depthwise_kernels_of_in_order_cores_may_go_down_a_column_of_tiles():
    for registers, downwards in ((NEON, False), (replace(NEON, in_order=True), True)):
        orders = [{knobs.order for knobs in all_knobs(shape, registers)} for shape in (SHAPES[0], SHAPES[3])]
        assert orders == [{"cyx", "yxc", "ycx"}, {"cyx", "yxc", "ycx"} | ({"cxy"} if downwards else set())]


def test_padding_is_copied_on_x86_and_cut_off_on_arm():
    for shape in (SHAPES[0], SHAPES[3]):
        paddings = [{knobs.padding for knobs in all_knobs(shape, registers)} for registers in (AVX512, NEON)]
        assert paddings == [{"inline", "whole", "outer", "middle"}, {"border", "whole", "outer", "middle"}]
