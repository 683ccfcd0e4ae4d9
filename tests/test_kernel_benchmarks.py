"""Benchmarks that look at kernels' code show whole blocks and count as the simulated cores do."""

import pytest

from tvmfbnet.errors import UserError
from tvmfbnet.simulation.cores import load_core


def block(address, code, executions, compute, stall=0.0):
    costs = {"cycles": compute + stall, "compute_cycles": compute, "bandwidth_cycles": 0.0, "stall_cycles": [stall]}
    return {"address": address, "code": code, "executions": executions} | costs


def test_blocks_that_always_follow_one_another_are_shown_as_one(benchmark_script):
    first, second, third = (
        block(100, "aa" * 8, 5, 50.0),
        block(108, "bb" * 4, 5, 0.0, 7.0),
        block(112, "cc" * 4, 5, 0.0),
    )
    other, elsewhere = block(116, "dd" * 4, 5, 90.0), block(108, "ee" * 4, 6, 0.0, 1.0)
    chains = benchmark_script("hot_loops").joined([third, second, first, elsewhere, other])
    assert [(chain["address"], chain["cycles"]) for chain in chains] == [(116, 90.0), (100, 57.0), (108, 1.0)]
    assert chains[1]["code"] == "aa" * 8 + "bb" * 4 + "cc" * 4 and chains[1]["stall_cycles"] == [7.0]


def test_loops_are_counted_as_on_a_simulated_device(benchmark_script, tmp_path, monkeypatch):
    module = benchmark_script("arm_inner_loops")
    monkeypatch.setattr(module, "cache_folder", lambda: tmp_path)
    products = [f"\tfmla\tv{number}.4s, v30.4s, v31.4s" for number in range(16)]
    assembly = "\n".join([".LBB0_1:", *products, "\tsubs\tx8, x8, #1", "\tb.ne\t.LBB0_1", "\tret"])
    (body,) = module.straight_loops(assembly)
    assert module.products_of(body) == 16
    for name in ("a76", "a55"):
        core = load_core(name)
        (cycles,) = module.cycles_of([body], core)
        assert 16 / cycles == pytest.approx(module.peak_of(core), rel=0.1)


def test_a_core_of_unknown_throughput_is_told(benchmark_script):
    with pytest.raises(UserError, match="core a76 has no section documented"):
        benchmark_script("arm_inner_loops").peak_of(load_core("a76").model_copy(update={"documented": None}))
