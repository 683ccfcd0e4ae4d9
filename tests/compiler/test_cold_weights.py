"""A rotating kernel computes with every slice of its pool what the kernel computes, the last slice last."""

import re

import numpy as np
import pytest
import tvm
from tvm.driver import build
from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

from tvmfbnet.autotune.cpu_space import all_knobs
from tvmfbnet.autotune.templates import apply_knobs, registers_of, shape_of
from tvmfbnet.compiler.cold_weights import pool_for, rotation_object
from tvmfbnet.compiler.export import export_parts
from tvmfbnet.compiler.lowering import kernels_of, lower
from tvmfbnet.compiler.unchecked import unchecked
from tvmfbnet.rpc.session import ROTATE

TARGET = tvm.target.Target({"kind": "llvm", "num-cores": 1})


@pytest.fixture
def schedules(tiny_space):
    """The head's 1x1 conv with prepacked weights, scheduled with vectors and tiles of several sizes."""
    (mod,) = (lower(model, TARGET) for model in export_parts([tiny_space.head[0]]).values())
    kernel = next(kernel for kernel in kernels_of(mod, TARGET) if kernel.is_conv)
    shape = shape_of(kernel.mod)
    ways = all_knobs(shape, registers_of(TARGET))
    made = [apply_knobs(kernel.mod, shape, ways[index]) for index in (0, len(ways) // 2, len(ways) - 1)]
    return [RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(schedule.mod) for schedule in made]


@pytest.fixture
def scheduled(schedules):
    return schedules[0]


def test_what_a_rotation_leaves_is_what_the_last_slice_gives(scheduled, tmp_path):
    pool = pool_for(scheduled, 64 * 1024)
    assert pool is not None and pool.slices > 3
    path, rotation = tmp_path / "kernel.so", tmp_path / "rotation.o"
    rotation.write_bytes(rotation_object(scheduled, pool, str(TARGET)))
    with unchecked():
        build(scheduled, target=TARGET).export_library(str(path), addons=[str(rotation)])
    library = tvm.runtime.load_module(str(path))
    generator = np.random.default_rng(0)
    shapes = [tuple(int(size) for size in buffer.shape) for buffer in scheduled["main"].params]
    arguments = [tvm.runtime.tensor(generator.standard_normal(shape).astype(np.float32)) for shape in shapes]
    library["main"](*arguments)
    expected = arguments[-1].numpy().copy()
    weights = arguments[pool.argument].numpy().ravel()
    slices = generator.standard_normal((pool.slices, pool.values // pool.slices)).astype(np.float32)

    def rotated():
        arguments[pool.argument] = tvm.runtime.tensor(slices.ravel())
        library[ROTATE](*arguments)
        return arguments[-1].numpy().copy()

    assert not np.array_equal(rotated(), expected)
    slices[-1, : weights.size] = weights
    np.testing.assert_array_equal(rotated(), expected)
    slices[0] = 0.0  # what an earlier slice gave must not show
    np.testing.assert_array_equal(rotated(), expected)


def test_slices_start_at_cache_lines_and_fill_what_was_asked_for(scheduled):
    pool = pool_for(scheduled, 1e6)
    assert pool.values % pool.slices == 0 and (4 * pool.values // pool.slices) % 64 == 0
    assert 4 * pool.values >= 1e6 > 4 * (pool.values - pool.values // pool.slices)


def test_weights_that_the_nearest_cache_does_not_hold_anyway_need_no_pool(scheduled):
    assert pool_for(scheduled, 16) is None


def test_schedules_of_a_kernel_share_one_rotation_however_they_lay_out_its_weights(schedules):
    pools = [pool_for(mod, 64 * 1024) for mod in schedules]
    layouts = {tuple(map(int, mod["main"].params[pools[0].argument].shape)) for mod in schedules}
    assert len(layouts) > 1 and len(set(pools)) == 1
    objects = [rotation_object(mod, pools[0], str(TARGET)) for mod in schedules]
    assert all(each is objects[0] for each in objects)
    other = pool_for(schedules[0], 128 * 1024)
    assert rotation_object(schedules[0], other, str(TARGET)) != objects[0]


def compute_code(mod):
    """The assembly of a kernel's own code, whatever its labels are called, and the length of all assembly."""
    text = build(mod, target=TARGET).inspect_source("asm")
    start = text.index("main_compute_:")
    own = text[start : text.index(".Lfunc_end", start)]
    return re.sub(r"\.L[A-Za-z_]+\d+(_\d+)?", ".L", own), len(text)


def test_a_kernel_without_checks_of_its_arguments_is_the_same_machine_code(schedules):
    codes = []
    for mod in schedules:
        checked, with_checks = compute_code(mod)
        with unchecked():
            code, without = compute_code(mod)
        assert code == checked and without < with_checks / 2 + len(code)
        codes.append(code)
    assert codes[0] != codes[-1]
