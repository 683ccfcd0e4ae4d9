"""A rotating kernel computes with every slice of its pool what the kernel computes, the last slice last."""

import numpy as np
import pytest
import tvm
from tvm.driver import build
from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

from tvmfbnet.autotune.knobs import all_knobs
from tvmfbnet.autotune.templates import apply_knobs, registers_of, shape_of
from tvmfbnet.compiler.cold_weights import pool_for, rotation_of
from tvmfbnet.compiler.export import export_parts
from tvmfbnet.compiler.lowering import kernels_of, lower
from tvmfbnet.rpc.session import ROTATE

TARGET = tvm.target.Target({"kind": "llvm", "num-cores": 1})


@pytest.fixture
def scheduled(tiny_space):
    """The head's 1x1 conv with prepacked weights."""
    (mod,) = (lower(model, TARGET) for model in export_parts([tiny_space.head[0]]).values())
    kernel = next(kernel for kernel in kernels_of(mod, TARGET) if kernel.is_conv)
    shape = shape_of(kernel.mod)
    schedule = apply_knobs(kernel.mod, shape, all_knobs(shape, registers_of(TARGET))[0])
    return RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(schedule.mod)


def test_what_a_rotation_leaves_is_what_the_last_slice_gives(scheduled, tmp_path):
    pool = pool_for(scheduled, 64 * 1024)
    assert pool is not None and pool.slices > 3
    path, rotation = tmp_path / "kernel.so", tmp_path / "rotation.o"
    build(rotation_of(scheduled, pool), target=TARGET).write_to_file(str(rotation))
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
