"""Measurement passes on disk: pooled only under equal conditions, and a torn line costs that line alone."""

import json

from tvmfbnet.latency.passes import PassLog
from tvmfbnet.profiling.canary import HonestTiming, Sample
from tvmfbnet.profiling.device_timer import ChainTiming
from tvmfbnet.profiling.probe_passes import NetsRun, PassesDone, runs_begun
from tvmfbnet.space.space import NetPart

STEM, BLOCK = NetPart("stem", "conv_k3", 1, 4, 8, 8, 1), NetPart("block", "k3_e1", 4, 4, 8, 8, 1)
SHARED = {"context": "phone, TVM 1", "protocol": "in_net", "timing": {"visits": 4}}


def log_in(folder):
    return PassLog(folder / "latency.jsonl")


def begun(trials=8, shared=SHARED):
    return NetsRun.begun([(STEM, BLOCK)], frozenset([BLOCK]), {STEM: 3, BLOCK: trials}, shared, 0.01)


def timing(ms):
    return ChainTiming(HonestTiming(Sample((ms, ms), 0), 1.0, 1, True), (((ms / 3, ms / 3), (ms / 2, ms / 2)),))


def test_a_restarted_run_has_its_nets_and_its_passes(tmp_path):
    made = PassesDone(begun(), log_in(tmp_path))
    for ms in (1.0, 2.0):
        made.add(0, timing(ms), {"model": "phone"})
    (run,) = runs_begun(log_in(tmp_path), SHARED, {STEM: 3, BLOCK: 8})
    assert run == begun()
    again = PassesDone(run, log_in(tmp_path))
    assert again.passes(0) == [timing(1.0), timing(2.0)] and again.passes(1) == []
    assert again.fingerprint(0) == {"model": "phone"} and again.recorded == set()
    again.mark_recorded(0)
    assert PassesDone(run, log_in(tmp_path)).recorded == {0}
    log_in(tmp_path).append(run.key, {"library": 0, "nets_ms": [[["soon"]]], "whole": {}})
    log_in(tmp_path).append(run.key, {"library": 0, **timing(0.0).to_dict(), "fingerprint": {}})
    assert PassesDone(run, log_in(tmp_path)).passes(0) == [timing(1.0), timing(2.0)], "damaged ones count"
    log_in(tmp_path).drop(run.key)
    assert not (tmp_path / "visits.jsonl").exists()


def test_passes_of_other_conditions_are_kept_and_those_of_other_kernels_are_dropped(tmp_path):
    PassesDone(begun(), log_in(tmp_path))
    assert runs_begun(log_in(tmp_path), {**SHARED, "context": "phone, TVM 2"}, {STEM: 3, BLOCK: 8}) == []
    assert runs_begun(log_in(tmp_path), SHARED, {STEM: 3}) == []  # another space's parts
    assert log_in(tmp_path).runs()
    assert runs_begun(log_in(tmp_path), SHARED, {STEM: 3, BLOCK: 16}) == []  # tuned further since
    assert log_in(tmp_path).runs() == {}


def test_a_torn_line_costs_that_pass_alone(tmp_path):
    log = log_in(tmp_path)
    log.append("a", {"visit": 1})
    with log.path.open("ab") as stream:
        stream.write(b'{"run": "a", "vis')
    log.append("a", {"visit": 2})
    log.append("b", {"visit": 3})
    assert log.runs() == {"a": [{"visit": 1}, {"visit": 2}], "b": [{"visit": 3}]}
    log.drop("a", lambda line: line["visit"] == 1)
    assert [json.loads(line) for line in log.path.read_text().splitlines()] == [
        {"run": "a", "visit": 2},
        {"run": "b", "visit": 3},
    ]
