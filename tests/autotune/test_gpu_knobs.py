"""GPU schedules before any trial: which ways there are, how the static model ranks them, and what older logs mean."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tvmfbnet.autotune.cost_model import TrialCostModel
from tvmfbnet.autotune.gpu_knobs import TEMPLATES_VERSION, GpuKnobs, thread_work
from tvmfbnet.autotune.gpu_model import (
    GpuModel,
    fits,
    gpu_model,
    load_cycles,
    occupancy,
    registers_used,
    slowness,
)
from tvmfbnet.autotune.gpu_space import FEATURES, gpu_features, gpu_ways
from tvmfbnet.autotune.kernel_shape import KernelShape
from tvmfbnet.autotune.knobs import Knobs
from tvmfbnet.autotune.machines import features_of, heuristic
from tvmfbnet.autotune.registers import Registers
from tvmfbnet.autotune.transfer import read_sources
from tvmfbnet.autotune.trial_log import TrialLog
from tvmfbnet.errors import UserError
from tvmfbnet.rpc.session import KernelTiming
from tvmfbnet.targets.definition import load_target

MALI = gpu_model("mali", "opencl", 256)
POINTWISE = KernelShape("conv", 28, 28, 96, reduction=96, group=96, extra=2)
DEPTHWISE = KernelShape("depthwise", 28, 28, 96, kernel=3, padded=True, extra=2)
GROUPED = KernelShape("conv", 28, 28, 96, reduction=24, group=24)
STEM = KernelShape("conv", 112, 112, 16, kernel=3, stride=2, reduction=3, group=16, padded=True, extra=2)
CLASSIFIER = KernelShape("matmul", 1, 1, 1000, reduction=1984, group=1000, extra=1)
POOL = KernelShape("pool", 1, 1, 1984, kernel=7, group=1984)
MOVE = KernelShape("move", 28, 28, 96, extra=2)
SHAPES = (POINTWISE, DEPTHWISE, GROUPED, STEM, CLASSIFIER, POOL, MOVE)
GOOD = GpuKnobs(1, 4, 4, 4, pixels=4, vectors=8, staged=4)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.kind)
def test_every_way_tiles_the_output_within_the_gpus_limits(shape):
    ways = gpu_ways(shape, MALI)
    assert 1 < len(ways) <= 1500 and len({knobs.key for knobs in ways}) == len(ways)
    for knobs in ways:
        assert shape.height % knobs.rows == shape.width % knobs.columns == 0
        assert knobs.channels % knobs.lanes == 0
        elements = shape.height * shape.width * shape.channels if shape is MOVE else shape.channels
        assert elements % (knobs.channels * knobs.vectors) == 0
        assert 1 <= knobs.threads <= 256 and registers_used(shape, knobs) <= 64
        if shape.kind == "conv":  # a work group stays within a group of channels, or has whole ones
            width = knobs.channels * knobs.vectors
            assert shape.group % knobs.channels == 0 and (width % shape.group == 0 or shape.group % width == 0)
    scores = [slowness(shape, knobs, MALI) for knobs in ways]
    assert scores == sorted(scores)


def test_a_target_that_allows_fewer_threads_gets_no_larger_work_group():
    small = gpu_model("mali", "opencl", 32)
    for shape in SHAPES:
        assert max(knobs.threads for knobs in gpu_ways(shape, MALI)) > 32 or shape is POOL
        assert max(knobs.threads for knobs in gpu_ways(shape, small)) <= 32


def test_kernels_of_integers_have_no_gpu_template():
    assert gpu_ways(replace(POINTWISE, element_bytes=1), MALI) == []


def test_a_window_that_no_registers_hold_still_gets_ways():
    huge = KernelShape("depthwise", 28, 28, 96, kernel=15, stride=2, padded=True)
    ways = gpu_ways(huge, MALI)
    assert ways and not any(fits(huge, knobs, MALI) for knobs in ways)


def test_more_than_32_registers_halve_the_threads_and_more_than_64_spill():
    free, many, spilled = (replace(GOOD, columns=columns) for columns in (1, 4, 14))
    used = [registers_used(POINTWISE, knobs) for knobs in (free, many, spilled)]
    assert used[0] <= 32 < used[1] <= 64 < used[2]
    assert [occupancy(POINTWISE, knobs, MALI) for knobs in (free, many)] == [1.0, 0.5]
    assert fits(POINTWISE, many, MALI) and not fits(POINTWISE, spilled, MALI)
    assert slowness(POINTWISE, spilled, MALI) > slowness(POINTWISE, many, MALI) + 1.0


def test_vectors_beat_scalars_and_neighbours_along_the_channels_share_a_line():
    scalar = replace(GOOD, lanes=1, staged=1)
    assert slowness(POINTWISE, GOOD, MALI) < slowness(POINTWISE, scalar, MALI) - 0.5
    depthwise = replace(GOOD, pixels=28, staged=1)
    apart = replace(depthwise, across="pixels")
    assert load_cycles(DEPTHWISE, depthwise, MALI) < load_cycles(DEPTHWISE, apart, MALI)


def test_a_tile_of_more_pixels_loads_less_per_product_and_half_a_warp_is_half_wasted():
    one, four = (thread_work(POINTWISE, replace(GOOD, columns=columns)) for columns in (1, 4))
    assert one.weight_loads / one.products == 4 * four.weight_loads / four.products
    assert (one.products, one.sums, one.input_loads, one.weight_loads) == (4 * 96, 4, 24, 96)
    half = replace(GOOD, pixels=1, vectors=8)  # 8 threads of a warp of 16
    assert slowness(POINTWISE, half, MALI) > slowness(POINTWISE, replace(half, pixels=2), MALI) + 0.5


def test_an_unknown_gpu_is_taken_for_a_mali_and_keeps_its_own_limit():
    assert gpu_model("", "opencl", 128) == replace(MALI, most_threads=128)
    assert gpu_model("adreno", "opencl", 256).warp == 64 and gpu_model("", "metal", 256).warp == 32


def test_the_cost_model_ranks_by_the_static_model_first_and_learns_gpu_trials():
    ways = gpu_ways(POINTWISE, MALI)
    cost_model = TrialCostModel(MALI)
    rows = cost_model.rows(POINTWISE, ways)
    assert rows.shape == (len(ways), len(FEATURES) + 1) and cost_model.slowness(rows) is None
    assert cost_model.heuristic(POINTWISE, ways[0]) == slowness(POINTWISE, ways[0], MALI)
    for knobs in ways[::12]:  # an invented GPU that wants large tiles
        cost_model.add(POINTWISE, knobs, 1.0 / (knobs.columns * knobs.channels))
    predicted = cost_model.predict_ms(POINTWISE, rows)
    actual = np.array([1.0 / (knobs.columns * knobs.channels) for knobs in ways])
    assert np.corrcoef(predicted, actual)[0, 1] > 0.9
    assert len(gpu_features(POINTWISE, ways[0], MALI)) == len(FEATURES)


def test_knobs_of_a_cpu_are_none_of_a_gpu():
    for shape, knobs, machine in ((POINTWISE, GOOD, Registers(32, 16)), (POINTWISE, Knobs(1, 1, 4, 4), MALI)):
        for called in (features_of, heuristic):
            with pytest.raises(TypeError, match="are no knobs of"):
                called(shape, knobs, machine)


class Kernel:
    """The attributes of a kernel that the log reads."""

    key, name = "a", "conv"


def test_the_log_keeps_gpu_knobs_and_counts_no_trials_of_other_templates_or_searches(tmp_path):
    path = tmp_path / "trials.jsonl"
    ways = gpu_ways(POINTWISE, MALI)[:3]
    log = TrialLog(path)
    log.append(Kernel, None, [None], [KernelTiming((2.0,))])  # an earlier version's, by MetaSchedule's rules
    log.append(
        Kernel, POINTWISE, ways, [KernelTiming((1.0,)), KernelTiming((3.0,)), KernelTiming(error="no", kind="run")]
    )
    old = json.loads(path.read_text().splitlines()[1])
    assert old["knobs"]["gpu"] == TEMPLATES_VERSION
    old["knobs"]["gpu"] = TEMPLATES_VERSION + 1
    with path.open("a") as stream:
        stream.write(json.dumps(old) + "\n")
    read = TrialLog(path)
    assert [trial.knobs for trial in read.templated["a"]] == ways and read.spent["a"] == 5
    assert read.best_ms["a"] == 1.0
    read.count_only_templates(["a", "b"])
    assert read.spent["a"] == 3 and read.spent["b"] == 0


def test_a_gpu_learns_from_a_gpu_and_not_from_a_cpu(tmp_path):
    folder = tmp_path / "pocl" / "database"
    folder.mkdir(parents=True)
    ways = gpu_ways(POINTWISE, MALI)[:60]
    TrialLog(folder / "trials.jsonl").append(Kernel, POINTWISE, ways, [KernelTiming((1.0,))] * len(ways))
    (source,) = read_sources(["pocl"], load_target("mali"), tmp_path)
    assert isinstance(source.machine, GpuModel) and len(source.trials) == 60
    cost_model = TrialCostModel(MALI, sources=[source])
    assert cost_model.slowness(cost_model.rows(POINTWISE, ways)) is not None
    with pytest.raises(UserError, match="CPUs and GPUs have other templates"):
        read_sources(["pocl"], load_target("host"), tmp_path)
