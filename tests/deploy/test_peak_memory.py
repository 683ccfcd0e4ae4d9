"""Peak memory, three times the same to the byte: worked out for the search, read from the plan, asked from TVM."""

import random

import numpy as np
import pytest
import tvm

from tvmfbnet.compiler.export import export_net
from tvmfbnet.compiler.lowering import build_prepared, lower, plan_memory, prepare
from tvmfbnet.compiler.memory_plan import net_memory
from tvmfbnet.deploy.description import PackageDescription
from tvmfbnet.deploy.package import untrained_net
from tvmfbnet.dtypes import FLOAT16, FLOAT32
from tvmfbnet.pipeline.result import _as_measured
from tvmfbnet.profiling.allocated_memory import allocated_peak, used_bytes
from tvmfbnet.search.constraints import ConstraintCheck
from tvmfbnet.search.derive import choice_of
from tvmfbnet.search.quantities.peak_memory import PeakMemory
from tvmfbnet.search.quantities.size import size_costs
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch
from tvmfbnet.space.registry import load_space


@pytest.fixture(scope="module")
def tiny():
    return load_space("fbnet_mini@16")


@pytest.mark.parametrize("seed", [0, 1])
def test_search_plan_and_runtime_agree_to_the_byte(tiny, seed):
    draw = random.Random(seed)
    arch = Arch(tuple(draw.choice(layer.blocks) for layer in tiny.layers))
    target = tvm.target.Target({"kind": "llvm", "num-cores": 1})
    prepared = prepare(lower(export_net(untrained_net(arch, tiny).eval()), target), target, None)
    memory = net_memory(plan_memory(prepared, target))
    image = tvm.runtime.tensor(np.zeros((1, 1, 16, 16), "float32"))
    choice = choice_of(format_arch(arch, tiny), tiny)
    before = used_bytes()
    assert allocated_peak(build_prepared(prepared, target), image) == memory.peak_bytes
    assert used_bytes() == before
    assert PeakMemory.of(tiny, FLOAT32).value(choice) == memory.peak_bytes
    assert size_costs(tiny, FLOAT32).value(choice) == memory.weight_bytes


@pytest.mark.parametrize(("head", "dtype"), [("lraspp", FLOAT16), ("ssdlite", FLOAT16), ("ssdlite", FLOAT32)])
def test_other_heads_agree_as_well_with_the_feature_maps_that_they_keep(tiny_space_file, head, dtype):
    space = load_space(f"{tiny_space_file}@32,classes=3,head={head}")
    arch = Arch(tuple(random.Random(3).choice(layer.blocks) for layer in space.layers))
    target = tvm.target.Target({"kind": "llvm", "num-cores": 1})
    prepared = prepare(lower(export_net(untrained_net(arch, space).eval(), dtype, batch=2), target), target, None)
    memory, choice = net_memory(plan_memory(prepared, target)), choice_of(format_arch(arch, space), space)
    assert PeakMemory.of(space, dtype, 2).value(choice) == memory.peak_bytes
    assert size_costs(space, dtype).value(choice) == memory.weight_bytes


def test_a_package_tells_what_it_takes():
    taken = PackageDescription.model_construct(peak_memory_bytes=90_112, weight_bytes=123_456, library_bytes=400_000)
    assert taken.describe_memory() == (
        "memory: 90.1 kB of activations at once, 123.5 kB of weights, 400.0 kB of library"
    )
    older = PackageDescription.model_construct(peak_memory_bytes=None, weight_bytes=None, library_bytes=None)
    assert older.describe_memory() == "memory: not recorded"


def test_a_runs_result_judges_memory_and_size_by_the_compiled_net():
    checks = [ConstraintCheck("peak_memory", "B", 90_000.0, 100_000.0, True)]
    checks += [ConstraintCheck("size", "B", 50_000.0, 60_000.0, True), ConstraintCheck("params", "", 5.0, 6.0, True)]
    package = {"peak_memory_bytes": 120_000, "weight_bytes": 60_000}
    judged = [_as_measured(check, {}, package) for check in checks]
    assert [(item["value"], item["met"]) for item in judged] == [(120_000, False), (60_000, True), (5.0, True)]
    assert _as_measured(checks[0], {}, {}) == checks[0].to_dict(), "packages of earlier versions do not say"
