"""A net is timed again while the verdict is not clear: later, a few times, and every pass counts."""

from pathlib import Path

import pytest

from tvmfbnet.latency.speed import SpeedFactor
from tvmfbnet.latency.verdict import MET, MISSED, Interval
from tvmfbnet.profiling.canary import HonestTiming, Sample
from tvmfbnet.profiling.net_latency import PASSES, ROUNDS, measure_latency
from tvmfbnet.targets.definition import load_target


class Device:
    """Answers each pass with the next latency, the last one for ever; single runs take ``single``."""

    def __init__(self, latencies_ms, single=None, target="host"):
        self.target = load_target(target)
        self.fingerprint, self.source = {"model": "invented"}, "simulated" if self.target.is_simulated else "measured"
        self.latencies, self.single, self.passes, self.singles = list(latencies_ms), single, 0, 0

    def steadily(self, library, shape):
        self.passes += 1
        latency = self.latencies.pop(0) if len(self.latencies) > 1 else self.latencies[0]
        return HonestTiming(Sample((latency,) * 10, 0), 1.0, 1, True)

    def single_runs(self, library, shape):
        self.singles += 1
        return (self.single or self.latencies[0], 100.0)


class Probe:
    """A speed factor that is known well after that many passes."""

    def __init__(self, enough):
        self.enough, self.passes = enough, 0

    def run_pass(self, timer):
        self.passes += 1

    @property
    def factor(self):
        noise = 0.01 if self.passes >= self.enough else 0.2
        return SpeedFactor(Interval(1.0, 1 - noise, 1 + noise, self.passes), 8, 0.0, (1.0, 1.0), True)


@pytest.fixture
def pauses():
    return []


def time(device, target_ms, pauses, tmp_path, **others):
    return measure_latency(tmp_path, (1, 1), device, target_ms, sleep=pauses.append, **others)


def test_a_clear_verdict_takes_one_look(tmp_path, pauses):
    for latency, kind in ((0.9, "met"), (1.1, "missed")):
        device = Device([latency])
        assert time(device, 1.0, pauses, tmp_path).verdict(1.0).kind == kind
        assert (device.passes, pauses) == (PASSES, [])


def test_an_undecided_one_is_measured_again_later_and_all_passes_count(tmp_path, pauses):
    noisy = [0.8, 1.2] * 5
    timed = time(Device([*noisy[:PASSES], 0.9]), 1.0, pauses, tmp_path)
    assert timed.verdict(1.0).kind == "met" and timed.interval.passes > PASSES
    assert len(timed.passes) == PASSES * (1 + len(pauses)) and pauses == sorted(pauses)
    assert sum(min(one.sample.repeats_ms) == 1.2 for one in timed.passes) == 4, "what was not liked is kept"


def test_what_stays_noisy_ends_undecided_after_a_bounded_number_of_looks(tmp_path, pauses):
    device = Device([0.8, 1.2] * 100)
    timed = time(device, 1.0, pauses, tmp_path)
    assert timed.verdict(1.0).phrase.startswith("undecided (noise 50.0 %)")
    assert device.passes == ROUNDS * PASSES and len(pauses) == ROUNDS - 1 and pauses[0] < pauses[1]


def test_nothing_is_measured_again_where_more_passes_could_not_decide(tmp_path, pauses):
    device = Device([0.999])
    assert time(device, 1.0, pauses, tmp_path).verdict(1.0).kind == "undecided"
    assert device.passes == PASSES, "the noise is the least that there can be"


def test_a_net_is_called_too_slow_only_after_single_runs_said_so_too(tmp_path, pauses):
    alone = Device([5.0], single=4.9)
    assert time(alone, 1.0, pauses, tmp_path).verdict(1.0).phrase == "missed by 400.0 %" and alone.singles == 1
    shared = Device([5.0], single=0.95)
    timed = time(shared, 1.0, pauses, tmp_path)
    assert timed.verdict(1.0).kind == "undecided" and shared.passes == ROUNDS * PASSES
    assert timed.to_dict(shared.target)["latency_ms"] == 5.0, "the latency stays as measured"
    assert timed.to_dict(shared.target)["fastest_ms"] == 0.95


def test_a_speed_factor_that_is_not_known_well_is_measured_longer_only_where_a_choice_rests_on_it(tmp_path, pauses):
    probe, device = Probe(enough=PASSES + 1), Device([0.5])
    timed = time(device, 1.0, pauses, tmp_path, probe=probe, choosing=True)
    assert timed.speed.known and device.passes == 2 * PASSES and len(pauses) == 1
    for latency, choosing in ((0.97, True), (0.5, False), (1.2, True)):
        device = Device([latency])
        timed = time(device, 1.0, pauses, tmp_path, probe=Probe(enough=1000), choosing=choosing)
        assert device.passes == PASSES and not timed.speed.known
    never = Device([0.5])
    time(never, 1.0, pauses, tmp_path, probe=Probe(enough=1000), choosing=True)
    assert never.passes == ROUNDS * PASSES


def test_without_a_target_one_look_is_enough(tmp_path, pauses):
    device = Device([0.8, 1.2] * 100)
    time(device, None, pauses, tmp_path, between=lambda: pauses.append("other"))
    assert device.passes == PASSES and device.singles == 0 and pauses == ["other"] * PASSES


def test_on_a_simulated_device_one_pass_is_exact_and_its_verdict_is_no_measured_one():
    device = Device([8.0], target="sim_a76")
    for target_ms, kind in ((8.0, MET), (7.99, MISSED)):
        device.passes = 0
        latency = measure_latency(Path("net.so"), (1,), device, target_ms, sleep=lambda seconds: pytest.fail("waits"))
        assert (device.passes, device.singles) == (1, 0)
        assert (latency.interval.low, latency.interval.value, latency.interval.high) == (8.0, 8.0, 8.0)
        verdict = latency.verdict(target_ms)
        assert verdict.kind == kind and verdict.source == "simulated" and "measured" not in verdict.describe()
    values = latency.to_dict(device.target)
    assert values["source"] == "simulated" and values["noise"] == 0.0 and values["canary_ratio"] is None
