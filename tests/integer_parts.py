"""Parts in int8 for tests of several packages: those of every kind, run and compared with the reference."""

from __future__ import annotations

import random

import numpy as np

from tvmfbnet.autotune.candidate import ScheduleCandidate, argument_infos
from tvmfbnet.autotune.cpu_space import all_knobs
from tvmfbnet.autotune.templates import apply_knobs, registers_of, shape_of
from tvmfbnet.compiler.dot_products import dot_product_of
from tvmfbnet.compiler.lowering import kernels_of
from tvmfbnet.compiler.shapes import part_input_shape
from tvmfbnet.dtypes import random_tensor
from tvmfbnet.quantisation.reference import QuantisedReference

# Stem, head, every kind of block: pointwise and depthwise, groups and shuffle, squeeze-and-excitation, hard swish.
SPACE = """
input: {channels: 3, height: 14, width: 14}
classes: 10
stem: {channels: 16, stride: 2}
stages:
  - {channels: 16, layers: 1, stride: 1}
  - {channels: 24, layers: 1, stride: 2}
blocks: [k3_e3, k5_e1_g2, k3_e1_se_hswish, skip]
last_channels: 40
"""


def input_of(part, model, target):
    """A random input as the model takes it, and the output codes or floats that the reference gives for it."""
    reference = QuantisedReference(model)
    image = random_tensor(part_input_shape(part), "float32", 3)
    expected = reference.run(image)
    dot = dot_product_of(target)
    source = image if part.part == "stem" else as_stored(reference.input_codes(image), dot)
    if part.part != "head_linear":
        expected = as_stored(reference.output_codes(expected), dot)
        return source, expected, 1.0
    return source, expected, float(reference.output_scale)


def as_stored(codes, dot):
    """Unsigned codes as a target stores them."""
    return (codes.astype("int32") - dot.offset).astype(dot.codes)


def steps(actual, expected, step):
    """Largest difference in steps of the output's scale."""
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    return np.abs(actual.astype("float64") - expected.astype("float64")).max() / step


def random_schedules(mod, target, database, seed=0, only=lambda kernel: True):
    """Puts a random schedule of each kernel into a database; returns the kernels without a template."""
    from tvm.s_tir import meta_schedule as ms

    missing = []
    for kernel in filter(only, kernels_of(mod, target)):
        shape = shape_of(kernel.mod)
        if shape is None:
            missing.append(kernel.name)
            continue
        knobs = random.Random(seed).choice(all_knobs(shape, registers_of(target)))
        schedule = ScheduleCandidate.of(apply_knobs(kernel.mod, shape, knobs), knobs).schedule
        workload = database.commit_workload(kernel.mod)
        infos = argument_infos(schedule)
        database.commit_tuning_record(ms.database.TuningRecord(schedule.trace, workload, [1.0], target, infos))
    return missing
