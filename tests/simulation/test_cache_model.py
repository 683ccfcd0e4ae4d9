"""The simulator's caches do to hand-made traces what such caches do, counted by hand."""

import os
import shutil
import subprocess
from dataclasses import dataclass

import pytest

from tvmfbnet.simulation.programs import build_simulator

# 1 KiB: 4 sets of 4 lines, below it 4 KiB: 8 sets of 8 lines.
SMALL = ("l1=1:4:64:4:16", "l2=4:8:64:10:16", "memory=100:10")
LINE, L1_SET, PAGE = 64, 4 * 64, 4096


@dataclass(frozen=True)
class Outcome:
    """Where each access hit; and the loads that missed each level, the lines that left each level either way."""

    accesses: list[str]
    misses: list[int]
    lines: list[int]


@pytest.fixture(scope="module")
def program():
    if shutil.which("cmake") is None:
        pytest.skip("cmake is missing")
    return build_simulator((os.environ.get("CXX", "") or "c++",)).cache_trace


@pytest.fixture
def run(program):
    def trace(accesses, settings=SMALL):
        text = "".join(f"{kind} {address:x}\n" for kind, address in accesses)
        done = subprocess.run([program, *settings], input=text, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        *outcomes, misses, lines = done.stdout.splitlines()
        return Outcome(outcomes, [int(n) for n in misses.split()[1:]], [int(n) for n in lines.split()[1:]])

    return trace


def loads(*addresses):
    return [("R", address) for address in addresses]


def test_of_a_sequence_the_first_access_to_each_line_misses(run):
    outcome = run(loads(*range(0, 4 * LINE, 16)))
    assert outcome.accesses == ["memory", "hit", "hit", "hit"] * 4
    assert outcome.misses == [0, 4] and outcome.lines == [4, 4]


def test_strides_of_a_line_miss_each_time_until_the_cache_holds_them(run):
    once = [line * LINE for line in range(16)]
    outcome = run(loads(*once, *once))
    assert outcome.accesses == ["memory"] * 16 + ["hit"] * 16


def test_one_line_too_many_in_a_set_thrashes_it(run):
    fits, thrashes = [n * L1_SET for n in range(4)], [n * L1_SET for n in range(5)]
    assert run(loads(*fits * 3)).accesses == ["memory"] * 4 + ["hit"] * 8
    # The next level has them: 8 sets of 8.
    outcome = run(loads(*thrashes * 3))
    assert outcome.accesses == ["memory"] * 5 + ["l2"] * 10
    assert outcome.misses == [10, 5] and outcome.lines == [15, 5]


def test_the_least_recently_used_line_of_a_set_leaves(run):
    a, b, c, d, e = (n * L1_SET for n in range(5))
    # a was used again, so that b is the oldest when e comes; then c is, when b comes back.
    outcome = run(loads(a, b, c, d, a, e, a, c, d, b, e, a))
    assert outcome.accesses[:5] == ["memory"] * 4 + ["hit"]
    assert outcome.accesses[5:] == ["memory", "hit", "hit", "hit", "l2", "l2", "l2"]


def test_a_store_allocates_its_line_and_costs_no_latency(run):
    outcome = run([("W", 0), ("R", 8), ("W", 16)])
    assert outcome.accesses == ["allocated", "hit", "hit"]
    assert outcome.misses == [0, 0] and outcome.lines == [1, 1]


def test_only_lines_that_were_written_are_written_back(run):
    clean = run(loads(*[n * L1_SET for n in range(5)]))
    assert clean.lines == [5, 5]
    dirty = run([("W", 0), *loads(*[n * L1_SET for n in range(1, 5)])])
    assert dirty.lines == [6, 5]  # to the next level, which had it
    # Lines of one set of the second level: the ninth pushes the first out, to memory.
    far = [n * 8 * LINE for n in range(9)]
    assert run([("W", address) for address in far]).lines == [9 + 5, 9 + 1]
    assert run(loads(*far)).lines == [9, 9]


def test_sets_need_not_be_a_power_of_two(run):
    # 3 sets of one line: lines 0 and 3 share a set, 0 and 2 do not.
    settings = ("l1=3:16:64:4:16", "memory=100:10")
    assert run(loads(*[n * 3 * LINE for n in range(17)], 0), settings).accesses[-1] == "memory"
    assert run(loads(*[n * 3 * LINE for n in range(16)], LINE, 0), settings).accesses[-1] == "hit"


class TestPrefetcher:
    """Three misses at equal distances start a stream."""

    WITH = (*SMALL, "prefetch=2:2")

    def test_sequence(self, run):
        outcome = run(loads(*[n * LINE for n in range(10)]), self.WITH)
        assert outcome.accesses == ["memory"] * 3 + ["prefetched"] * 7
        # Two lines further than was asked for.
        assert outcome.misses == [0, 3] and outcome.lines == [12, 12]
        assert run(loads(*[n * LINE for n in range(10)])).misses == [0, 10]

    @pytest.mark.parametrize("stride", [2, 5, -1, -3])
    def test_strides(self, run, stride):
        lines = [30 + n * stride for n in range(6)]
        assert run(loads(*[n * LINE for n in lines]), self.WITH).accesses == ["memory"] * 3 + ["prefetched"] * 3

    def test_no_stream_without_equal_distances_or_over_long_ones(self, run):
        for lines in ([0, 1, 3, 7, 15, 31], [0, 64, 128, 192, 256]):
            outcome = run(loads(*[n * LINE for n in lines]), self.WITH)
            assert outcome.misses == [0, len(lines)] and outcome.lines == [len(lines)] * 2

    def test_it_stops_at_the_pages_border(self, run):
        first = PAGE // LINE - 4
        outcome = run(loads(*[(first + n) * LINE for n in range(6)]), self.WITH)
        # The stream goes on in the next page by itself: its first line is missed, the following ones are fetched.
        assert outcome.accesses == ["memory"] * 3 + ["prefetched", "memory", "prefetched"]

    def test_streams_that_alternate_are_told_apart_as_long_as_there_are_entries(self, run):
        def alternating(streams):
            return loads(*[stream * 16 * PAGE + (n + 7 * stream) * LINE for n in range(8) for stream in range(streams)])

        two, three = run(alternating(2), self.WITH), run(alternating(3), self.WITH)
        assert two.misses == [0, 2 * 3]
        # The third stream takes the first one's entry; what was fetched for that one is used, then it is lost.
        assert three.misses == [0, 2 * 3 + 3 + 3]

    def test_a_line_that_is_here_is_not_fetched_again(self, run):
        # Line 5 is no first use of a prefetched line either, so that nothing is fetched beyond 6.
        assert run(loads(5 * LINE, *[n * LINE for n in range(6)]), self.WITH).lines == [7, 7]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((), "l1 is needed"),
        (("l1=1:4:64:4:16",), "memory is needed"),
        (("l1=1:4:64:4", "memory=1:1"), "l1 is '1:4:64:4', not 5 values"),
        (("l1=1:x:64:4:16", "memory=1:1"), "l1 is 'x', which is no number in its range"),
        (("l1=1:1.5:64:4:16", "memory=1:1"), "l1 is '1.5', which is no whole number"),
        (("l1=1:4:48:4:16", "memory=1:1"), "l1's line is no power of two"),
        (("l1=1:3:64:4:16", "memory=1:1"), "whose size is no whole number of sets"),
        (("l1=1:4:64:4:16", "l3=4:8:64:9:16", "memory=1:1"), "l2 is needed"),
        (("l1=1:4:64:4:16", "l2=4:8:32:9:16", "memory=1:1"), "l2's line is not l1's"),
        ((*SMALL, "overlap=1.5"), "overlap is '1.5'"),
        ((*SMALL, "speed=9"), "'speed' is no setting"),
        ((*SMALL, "speed"), "'speed' is not of the form name=value"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(program, settings, message):
    done = subprocess.run([program, *settings], input="", capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_a_trace_that_is_none_is_refused(program):
    done = subprocess.run([program, *SMALL], input="R 10\nX 20\n", capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "'X 20' is no access" in done.stderr
