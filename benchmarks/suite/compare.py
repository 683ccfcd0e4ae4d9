"""Two files of figures, figure by figure: faster, slower, or within the noise of their own repeats.

A figure counts as changed when each median lies outside the other's spread (10th to 90th percentile of the repeats, of
few repeats the least to the largest). What was measured once has no spread: then 15 % either way is taken for noise.
Exact figures have none. Times and rates of different CPUs are not compared; ratios and exact figures are.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from figures import ABSOLUTE

from suite.records import Figure, Outcome, Record
from tvmfbnet.errors import UserError

# Relative noise of what was timed once, and of exact figures, whose last digits differ between libraries.
# The first is what such figures differed by between two runs of one revision on a shared machine.
ONCE, EXACT = 0.15, 1e-3
# Changes below this are noise, however steady the repeats of one run are: runs differ more than their repeats do.
LEAST = 0.01

# Processes that are ready to run, on average: more of them than this, and times cannot be compared.
_OTHER_LOAD = 0.5

WITHIN, MISSING, OTHER_CPU = "within noise", "missing", "other CPU"


@dataclass(frozen=True)
class Row:
    """One figure of two files.

    Attributes:
        change: the second value over the first, None where there is nothing to divide.
        verdict: ``faster``, ``slower`` (of times and rates), ``better``, ``worse`` (of others), ``within noise``; or
            why there is none.
    """

    benchmark: str
    name: str
    before: Figure | None
    after: Figure | None
    change: float | None
    verdict: str
    note: str = ""

    @property
    def is_worse(self) -> bool:
        """Whether something was lost: a worse figure, or a benchmark that gave it before and now fails."""
        return self.verdict in ("slower", "worse", "failed")


def noise(figure: Figure) -> tuple[float, float]:
    """Between which values the figure may lie without having changed."""
    low, high = figure.spread
    width = EXACT if figure.exact else LEAST if len(figure.values) > 1 else ONCE
    slack = width * abs(figure.value)
    return min(low, figure.value - slack), max(high, figure.value + slack)


def verdict(before: Figure, after: Figure) -> str:
    """What became of a figure."""
    ranges = noise(before), noise(after)
    if ranges[0][0] <= after.value <= ranges[0][1] or ranges[1][0] <= before.value <= ranges[1][1]:
        return WITHIN
    improved = (after.value < before.value) == (after.better == "lower")
    if after.unit in ABSOLUTE:
        return "faster" if improved else "slower"
    return "better" if improved else "worse"


def compared(before: Record, after: Record) -> list[Row]:
    """A row per figure of either file, in the order of the second.

    Raises:
        UserError: the files are of different forms: their benchmarks had other settings.
    """
    if before.form != after.form:
        raise UserError(f"a {before.form} and a {after.form} run have other settings; compare two runs of one form")
    same_cpu = before.machine.same_cpu(after.machine)
    old, new = before.figures(), after.figures()
    return [
        _row(key, old.get(key), new.get(key), after.benchmarks.get(key[0]), same_cpu)
        for key in dict.fromkeys([*new, *old])
    ]


def _mean_load(record: Record, names: set[str]) -> float:
    """Over the benchmarks of these names that ran."""
    loads = [record.benchmarks[name].load for name in sorted(names)]
    return statistics.mean([load[0] for load in loads if load is not None] or [0.0])


def _row(
    key: tuple[str, str], before: Figure | None, after: Figure | None, outcome: Outcome | None, same_cpu: bool
) -> Row:
    if before is None:
        return Row(*key, None, after, None, "new")
    if after is None:
        failed = outcome is not None and outcome.status == "failed"
        return Row(*key, before, None, None, "failed" if failed else MISSING, outcome.reason if outcome else "")
    if (before.unit, before.better) != (after.unit, after.better):
        return Row(*key, before, after, None, "redefined", f"{before.unit} before, {after.unit} now")
    change = after.value / before.value if before.value else None
    if not same_cpu and after.unit in ABSOLUTE and not after.exact:
        return Row(*key, before, after, change, OTHER_CPU)
    once = not after.exact and len(before.values) == len(after.values) == 1
    return Row(*key, before, after, change, verdict(before, after), "each timed once" if once else "")


def differences(before: Record, after: Record) -> list[str]:
    """What else differs between two files and may explain figures, a line each."""
    told = []
    if not before.machine.same_cpu(after.machine):
        told.append(
            f"different CPUs: {before.machine.title} and {after.machine.title}; only ratios and exact figures compare"
        )
    loads = [_mean_load(record, set(before.benchmarks) & set(after.benchmarks)) for record in (before, after)]
    if abs(loads[0] - loads[1]) > _OTHER_LOAD:
        told.append(
            f"different loads: {loads[0]:.1f} and {loads[1]:.1f} on average when benchmarks began; "
            "times of the busier run are longer"
        )
    names = [name for name in after.versions if before.versions.get(name) != after.versions[name]]
    if names:
        told.append(
            "different versions: "
            + ", ".join(f"{name} {before.versions.get(name, 'none')} and {after.versions[name]}" for name in names)
        )
    return told
