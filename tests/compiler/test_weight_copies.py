"""A part that is repeated with copies of its weights still computes what it computed, and holds the copies."""

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmfbnet.compiler.export import export_parts, part_input_shape
from tvmfbnet.compiler.lowering import build, lower
from tvmfbnet.compiler.weight_copies import constant_bytes, repeat_main
from tvmfbnet.profiling.parts import weight_copies
from tvmfbnet.targets.definition import load_target, resolve


@pytest.fixture(scope="module")
def target():
    return resolve(load_target("host"))


def test_a_repeated_part_gives_its_own_output_and_holds_every_copy(tiny_space, target):
    compiled_for = target.for_tvm()
    parts = [tiny_space.stem, *tiny_space.distinct_blocks()[:4], tiny_space.head[2]]
    for part, model in export_parts(parts).items():
        mod = lower(model, compiled_for)
        image = np.random.default_rng(0).standard_normal(part_input_shape(part)).astype(np.float32)
        outputs = []
        for copies in (1, 3):
            machine = relax.VirtualMachine(build(mod, compiled_for, None, copies), tvm.cpu())
            outputs.append(machine["main"](tvm.runtime.tensor(image, tvm.cpu())).numpy())
        np.testing.assert_array_equal(*outputs)
        assert constant_bytes(repeat_main(mod, 3)) == 3 * constant_bytes(mod) > 0


def test_small_weights_are_not_copied_and_large_ones_only_until_they_are_enough(tiny_space, target):
    compiled_for = target.for_tvm()
    part, model = next(iter(export_parts([tiny_space.head[0]]).items()))
    mod = lower(model, compiled_for)
    assert part.part == "head_conv" and weight_copies(mod, target) == 1
