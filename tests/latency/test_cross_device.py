"""Is each net the best at home? Every case of the rule, on latencies and accuracies that are given."""

import json

import pytest

from tvmfbnet.latency.cross_device import CrossDevice, NetTiming, RunDevice, RunNet, unique_names
from tvmfbnet.latency.verdict import Interval

IMAGES = 10_000


def timing(latency_ms: float, noise: float = 0.03, untuned: int = 0) -> NetTiming:
    interval = Interval(latency_ms, latency_ms * (1 - noise), latency_ms * (1 + noise), 9)
    return NetTiming(interval, 20, untuned)


def pair(
    own: NetTiming,
    foreign: NetTiming,
    gain: float = 0.0,
    target_ms: float | None = None,
    images: int | None = IMAGES,
    archs: tuple[str, str] = ("k3_e1", "k3_e6"),
) -> CrossDevice:
    """Two devices; on the first one its own net and the foreign one take what is given, on the second 1 and 2 ms."""
    devices = tuple(RunDevice(name, name, "float32", 1, "measured", target_ms) for name in ("here", "there"))
    nets = tuple(
        RunNet(name, f"runs/{name}", arch, "tiny", 1000, 2000, accuracy, images)
        for name, arch, accuracy in zip(("here", "there"), archs, (0.9, 0.9 + gain), strict=True)
    )
    timings = {("here", "here"): own, ("there", "here"): foreign}
    timings |= {("there", "there"): timing(1.0), ("here", "there"): timing(2.0)}
    return CrossDevice(devices, nets, timings)


FASTER, SLOWER, ALIKE = timing(0.8), timing(1.25), timing(1.03)
# Accuracies of 90 % on 10,000 images differ beyond noise from about 0.83 points on.
NOISE, MORE = 0.005, 0.02


@pytest.mark.parametrize(
    ("foreign", "gain", "target_ms", "best", "said"),
    [
        (SLOWER, 0.0, None, True, "1.250 of its latency there, slower, and is as accurate within noise"),
        (SLOWER, NOISE, None, True, "as accurate within noise (+0.50 points)"),
        (SLOWER, -MORE, None, True, "slower, and is less accurate (-2.00 points)"),
        (FASTER, 0.0, None, False, "0.800 of its latency there, faster"),
        (FASTER, MORE, 5.0, False, "faster, and is more accurate (+2.00 points)"),
        (ALIKE, 0.0, None, None, "within noise (the intervals overlap)"),
        (ALIKE, -MORE, 5.0, None, "within noise (the intervals overlap)"),
        # One is faster, the other more accurate: the device's latency target says which counts.
        (SLOWER, MORE, None, None, "without a latency target neither counts more"),
        (SLOWER, MORE, 1.1, True, "it misses the latency target"),
        (SLOWER, MORE, 1.5, False, "it meets the latency target"),
        (SLOWER, MORE, 1.25, None, "it may or may not meet the latency target"),
        (FASTER, -MORE, None, None, "without a latency target neither counts more"),
        (FASTER, -MORE, 1.1, True, "the own net meets the latency target"),
        (FASTER, -MORE, 0.9, False, "the own net misses the latency target"),
        (FASTER, -MORE, 1.0, None, "the own net may or may not meet the latency target"),
        # A slow net of kernels that nobody tuned there proves nothing; a fast one does.
        (timing(1.25, untuned=3), 0.0, None, None, "but 3 of its 20 kernels were never tuned there"),
        (timing(0.8, untuned=3), 0.0, None, False, "faster"),
    ],
)
def test_the_rule(foreign: NetTiming, gain: float, target_ms: float | None, best: bool | None, said: str) -> None:
    verdict, other = pair(timing(1.0), foreign, gain, target_ms).verdicts()
    assert verdict.best_at_home is best
    assert said in verdict.describe() and verdict.describe().startswith("here: ")
    assert verdict.word == {True: "yes", False: "no", None: "undecided"}[best]
    assert other.device == "there"
    json.dumps([vars(rivalry) for rivalry in verdict.rivalries], allow_nan=False)


def test_as_many_untuned_kernels_at_home_make_no_difference() -> None:
    both = pair(timing(1.0, untuned=3), timing(1.25, untuned=3))
    assert both.verdicts()[0].best_at_home is True


def test_one_net_found_twice_is_no_rival_of_itself() -> None:
    verdict = pair(timing(1.0), SLOWER, archs=("k3_e1", "k3_e1")).verdicts()[0]
    assert verdict.best_at_home is None and "there's net is the same one" in verdict.describe()


def test_where_the_number_of_test_images_is_unknown_any_difference_counts() -> None:
    assert pair(timing(1.0), SLOWER, NOISE, images=None).verdicts()[0].best_at_home is None
    assert pair(timing(1.0), SLOWER, NOISE, images=200).verdicts()[0].best_at_home is True


def test_exact_latencies_overlap_only_if_they_are_equal() -> None:
    exact = timing(1.0, noise=0)
    assert pair(exact, timing(1.0001, noise=0)).verdicts()[0].best_at_home is True
    assert pair(exact, exact).verdicts()[0].best_at_home is None


def test_one_better_foreign_net_suffices_and_all_must_be_beaten() -> None:
    two = pair(timing(1.0), SLOWER)
    third = RunNet("far", "runs/far", "k5_e3", "tiny", 1, 1, 0.9, IMAGES)
    devices = (*two.devices, RunDevice("far", "far", "float32", 1, "measured"))
    for latency, best in ((FASTER, False), (ALIKE, None), (SLOWER, True)):
        timings = {**two.timings, **{("far", name): timing(1.5) for name in ("there", "far")}, ("far", "here"): latency}
        timings |= {(name, "far"): timing(3.0) for name in ("here", "there")}
        verdicts = CrossDevice(devices, (*two.nets, third), timings).verdicts()
        assert [verdict.best_at_home for verdict in verdicts] == [best, True, True]
        assert len(verdicts[0].rivalries) == 2


def test_names_are_the_shortest_that_tell_all_apart() -> None:
    assert unique_names([("a", "a int8"), ("b", "b int8")]) == ("a", "b")
    assert unique_names([("a", "a int8"), ("a", "a float32"), ("b", "b int8")]) == ("a int8", "a float32", "b int8")


def test_only_a_simulated_device_is_labelled_so() -> None:
    assert RunDevice("a", "a", "int8", 1, "simulated").label == "a (simulated)"
    assert RunDevice("a", "a", "int8", 1, "measured").label == "a"
