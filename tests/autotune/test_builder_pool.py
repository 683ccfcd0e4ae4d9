"""Builders are stopped while kernels are timed on their cores, and no build misses its deadline by that."""

import time

import psutil
import pytest

from tvmfbnet.autotune import engine_options
from tvmfbnet.autotune.builder_pool import BuilderPool
from tvmfbnet.scratch import new_folder
from tvmfbnet.targets.definition import load_target, resolve

BUILDERS = 3


def builders():
    return [child for child in psutil.Process().children() if "tvmfbnet.autotune.builder" in child.cmdline()]


def await_stopped(count, seconds=10.0):
    """Waits until that many builders are stopped."""
    end = time.monotonic() + seconds
    while (stopped := [builder.status() for builder in builders()].count(psutil.STATUS_STOPPED)) != count:
        assert time.monotonic() < end, f"{stopped} stopped"
        time.sleep(0.01)


def await_builders(count, seconds=60.0):
    """Waits until that many run."""
    end = time.monotonic() + seconds
    while (running := len(builders())) != count:
        assert time.monotonic() < end, f"{running} run"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def started():
    """A pool whose processes run."""
    with BuilderPool(resolve(load_target("host")), BUILDERS, new_folder()) as pool:
        for loaded in [pool._local.submit(time.sleep, 0.3) for _ in range(BUILDERS)]:
            loaded.result()
        await_builders(BUILDERS)
        yield pool
    assert not builders()


@pytest.fixture
def pool(started, monkeypatch):
    """The pool for a target with some threads, and with a deadline for builds."""

    def of(threads, seconds=600.0, cores=BUILDERS):
        monkeypatch.setattr(started, "_threads", threads)
        monkeypatch.setattr(started, "_cores", cores)
        monkeypatch.setattr(started, "_seconds", seconds)
        monkeypatch.setattr(started._local, "_seconds", seconds)
        return started

    return of


@pytest.mark.parametrize(("threads", "one", "two"), [(1, 1, 2), (2, 2, 3), (0, 0, 0)])
def test_builders_are_stopped_while_kernels_are_timed_on_their_cores(threads, one, two, pool):
    pool = pool(threads)
    with pool.making_way():
        await_stopped(one)
        with pool.making_way():
            await_stopped(two)
        await_stopped(one)
    await_stopped(0)
    assert pool._local.submit(len, "four").result() == 4


def test_builders_run_beside_a_timed_kernel_where_cores_are_left(pool):
    with pool(1, cores=BUILDERS + 1).making_way():
        assert pool(1)._local.submit(len, "four").result() == 4
        await_stopped(0)


@pytest.mark.parametrize(("trials", "cores", "expected"), [(0, 4, 1), (47, 4, 1), (48, 4, 2), (96, 4, 4), (9999, 2, 2)])
def test_a_builder_is_started_for_each_core_but_not_for_a_few_trials(trials, cores, expected, monkeypatch):
    monkeypatch.setattr(engine_options, "allowed_cores", lambda: cores)
    assert engine_options.builders_for(trials) == expected


@pytest.mark.parametrize(("kind", "threads"), [("local", 2), ("tracker", 0)])
def test_only_what_is_timed_on_this_machine_needs_its_cores(kind, threads, tmp_path):
    host = load_target("host")
    transport = host.transport.model_copy(update={"kind": kind})
    target = resolve(host.model_copy(update={"threads": 2, "transport": transport}))
    assert BuilderPool(target, 0, tmp_path, executor=object())._threads == threads


def test_an_error_while_kernels_are_timed_lets_builders_go_on(pool):
    with pytest.raises(RuntimeError), pool(1).making_way():
        await_stopped(1)
        raise RuntimeError
    await_stopped(0)


def test_builders_go_on_while_a_kernel_hangs(pool):
    with pool(BUILDERS, seconds=4.0).making_way():
        await_stopped(BUILDERS)
        await_stopped(0)


def test_a_build_that_began_long_ago_is_not_stopped(pool):
    pool = pool(BUILDERS, seconds=4.0)
    slow = pool._local.submit(time.sleep, 2.0)
    time.sleep(1.1)
    with pool.making_way():
        await_stopped(BUILDERS - 1)
        assert slow.result(timeout=3.0) is None
