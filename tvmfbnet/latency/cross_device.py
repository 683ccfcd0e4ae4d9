"""Nets found for several devices, each timed on every one: is each the best at home? (FBNet, arXiv 1812.03443, 4.3.)

A device's own net is compared with every foreign one on that device, as measured there. A foreign net is *slower* or
*faster* if the intervals of the two latencies do not overlap, and more or less accurate if the accuracies differ by
more than their binomial noise on the test images (95 %). Then the own net is

* better, if the foreign one is slower and not more accurate;
* worse, if the foreign one is faster and not less accurate;
* where one is faster and the other more accurate: better or worse as the device's latency target says, which the more
  accurate net has to meet; undecided without a target;
* undecided, if the intervals overlap, if both are the same net, or if the foreign net is slower with more kernels that
  nobody tuned there.

It is the best at home if it is better than every foreign net, and not if it is worse than one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tvmfbnet.latency.cells import SIMULATED, Source
from tvmfbnet.latency.verdict import MET, MISSED, Interval, Verdict

Outcome = Literal["better", "worse", "undecided"]
BETTER: Outcome = "better"
WORSE: Outcome = "worse"
UNDECIDED: Outcome = "undecided"
# Of the normal distribution, for 95 %.
_Z = 1.96


@dataclass(frozen=True)
class RunNet:
    """The net that one run found.

    Attributes:
        home: name of the device that it was found for.
        run: the run's folder.
        arch: canonical string.
        space: name of its space.
        params: weights.
        macs: multiply-accumulates for one image.
        accuracy: top-1 on the test images, after training.
        test_images: how many these are; None if unknown.
    """

    home: str
    run: str
    arch: str
    space: str
    params: int
    macs: int
    accuracy: float
    test_images: int | None = None


@dataclass(frozen=True)
class RunDevice:
    """The device that one run was for.

    Attributes:
        name: for people, unlike that of every other device here.
        target: name of the target.
        dtype: what nets compute in there; ``mixed`` for float32 and int8.
        threads: of the target.
        basis: whether its latencies are ``measured`` on a device or ``simulated`` by a model of one.
        target_ms: the latency target of its run; None without one.
        described: the machine as it reports itself; empty before it was asked.
    """

    name: str
    target: str
    dtype: str
    threads: int
    basis: Source
    target_ms: float | None = None
    described: str = ""

    @property
    def label(self) -> str:
        """The name; that of a simulated device says so."""
        return f"{self.name} ({SIMULATED})" if self.basis == SIMULATED else self.name


@dataclass(frozen=True)
class NetTiming:
    """One net on one device.

    Attributes:
        interval: the latency and its bounds, in milliseconds.
        kernels: conv kernels of the net.
        untuned: those of them that nobody tuned there.
    """

    interval: Interval
    kernels: int = 0
    untuned: int = 0


@dataclass(frozen=True)
class Rivalry:
    """A device's own net against one foreign net, on that device.

    Attributes:
        foreign: the home of the foreign net.
        outcome: what the own net is.
        ratio: the foreign net's latency as a multiple of the own one's.
        gain: how much more accurate the foreign net is (a share, negative if less).
        why: in words.
    """

    foreign: str
    outcome: Outcome
    ratio: float
    gain: float
    why: str


@dataclass(frozen=True)
class HomeVerdict:
    """Whether a device's own net is the best one there.

    Attributes:
        device: its name.
        rivalries: with each foreign net.
    """

    device: str
    rivalries: tuple[Rivalry, ...]

    @property
    def best_at_home(self) -> bool | None:
        """None: undecided."""
        outcomes = {rivalry.outcome for rivalry in self.rivalries}
        if WORSE in outcomes:
            return False
        return True if outcomes == {BETTER} else None

    @property
    def word(self) -> str:
        """``yes``, ``no`` or ``undecided``."""
        return {True: "yes", False: "no", None: UNDECIDED}[self.best_at_home]

    def describe(self) -> str:
        """One line for people: the reasons that count."""
        best = self.best_at_home
        counted = {True: BETTER, False: WORSE, None: UNDECIDED}[best]
        start = {True: "best at home", False: "not the best at home", None: "undecided whether best at home"}[best]
        reasons = "; ".join(rivalry.why for rivalry in self.rivalries if rivalry.outcome == counted)
        return f"{self.device}: {start}: {reasons}"


@dataclass(frozen=True)
class CrossDevice:
    """Nets of several runs on all of their devices.

    Attributes:
        devices: in the order of the runs.
        nets: one per device.
        timings: by the net's home and the device's name.
    """

    devices: tuple[RunDevice, ...]
    nets: tuple[RunNet, ...]
    timings: Mapping[tuple[str, str], NetTiming]

    def verdicts(self) -> tuple[HomeVerdict, ...]:
        """One per device."""
        return tuple(self._verdict(device, net) for device, net in zip(self.devices, self.nets, strict=True))

    def _verdict(self, device: RunDevice, own: RunNet) -> HomeVerdict:
        foreign = [net for net in self.nets if net.home != device.name]
        return HomeVerdict(device.name, tuple(self._against(device, own, net) for net in foreign))

    def _against(self, device: RunDevice, own: RunNet, foreign: RunNet) -> Rivalry:
        ours, theirs = self.timings[own.home, device.name], self.timings[foreign.home, device.name]
        ratio, gain = theirs.interval.value / ours.interval.value, foreign.accuracy - own.accuracy
        outcome, words = _outcome(device, own, foreign, ours, theirs)
        same = own.space == foreign.space and own.arch == foreign.arch
        why = f"{foreign.home}'s net is the same one" if same else f"{foreign.home}'s net {words(ratio, gain)}"
        return Rivalry(foreign.home, UNDECIDED if same else outcome, ratio, gain, why)


@dataclass(frozen=True)
class _Words:
    """A sentence about a foreign net, with its figures."""

    speed: str
    accuracy: str
    more: str = ""

    def __call__(self, ratio: float, gain: float) -> str:
        points = "" if not gain else f" ({100 * gain:+.2f} points)"
        return f"takes {ratio:.3f} of its latency there, {self.speed}, and is {self.accuracy}{points}{self.more}"


def _outcome(
    device: RunDevice, own: RunNet, foreign: RunNet, ours: NetTiming, theirs: NetTiming
) -> tuple[Outcome, _Words]:
    """What the own net is against a foreign one, and the words for it."""
    slower, faster = theirs.interval.low > ours.interval.high, theirs.interval.high < ours.interval.low
    more, less = (accuracy_differs(own, foreign, sign) for sign in (1, -1))
    accuracy = "more accurate" if more else "less accurate" if less else "as accurate within noise"
    if not slower and not faster:
        return UNDECIDED, _Words("within noise (the intervals overlap)", accuracy)
    words = _Words("slower" if slower else "faster", accuracy)
    if slower and theirs.untuned > ours.untuned:
        untuned = f"; but {theirs.untuned} of its {theirs.kernels} kernels were never tuned there"
        return UNDECIDED, _Words(words.speed, accuracy, untuned)
    if slower and not more:
        return BETTER, words
    if faster and not less:
        return WORSE, words
    if device.target_ms is None:
        return UNDECIDED, _Words(words.speed, accuracy, ": without a latency target neither counts more")
    # The more accurate one is better if it meets the latency target.
    kind = Verdict(device.target_ms, theirs.interval if slower else ours.interval).kind
    whose = "it" if slower else "the own net"
    told = _Words(words.speed, accuracy, f": {whose} {_TARGET_WORDS[kind]} the latency target")
    if kind == MET:
        return WORSE if slower else BETTER, told
    if kind == MISSED:
        return BETTER if slower else WORSE, told
    return UNDECIDED, told


_TARGET_WORDS = {MET: "meets", MISSED: "misses", "undecided": "may or may not meet"}


def accuracy_differs(own: RunNet, foreign: RunNet, sign: int) -> bool:
    """Whether the foreign net is more (``sign`` 1) or less (-1) accurate than the own one, beyond noise.

    The noise is that of two binomial shares of the test images; images that both nets were tested on make the truth
    less noisy. Where the number of images is unknown, any difference counts.
    """
    variance = 0.0
    for net in (own, foreign):
        if net.test_images:
            variance += net.accuracy * (1 - net.accuracy) / net.test_images
    return sign * (foreign.accuracy - own.accuracy) > _Z * math.sqrt(variance)


def unique_names(candidates: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """A name for each of several things: the shortest kind of name that tells all of them apart.

    Args:
        candidates: for each thing the same kinds of names, the shortest first; the last kind is unique.
    """
    columns = list(zip(*candidates, strict=True))
    place = next((place for place, column in enumerate(columns) if len(set(column)) == len(column)), len(columns) - 1)
    return tuple(columns[place])
