"""What the list of benchmarks is made of: a benchmark, its quick and its full form, and what a form needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Form:
    """One way to run a benchmark. In command lines ``{work}`` and ``{inputs}`` stand for the run's folders.

    Attributes:
        options: of the script, one text for each time that it is started.
        prepare: groups of ``tvmfbnet`` command lines that come first, once per work folder.
        inputs: files that must lie in the folder of inputs, and where they come from.
        programs: that must be installed, and the package that brings them.
        modules: the same of Python modules.
        cores: that the benchmark is pinned to.
    """

    options: tuple[str, ...] = ("",)
    prepare: tuple[tuple[str, ...], ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    programs: Mapping[str, str] = field(default_factory=dict)
    modules: Mapping[str, str] = field(default_factory=dict)
    cores: int = 1


@dataclass(frozen=True)
class Benchmark:
    """A script of ``benchmarks`` that measures something.

    Attributes:
        script: its name, without the ending.
        page: of ``docs/results``, with what it measured.
        quick: about a minute or two; a text says why there is none.
        full: as the page has it; a text says why there is none.
    """

    script: str
    page: str
    quick: Form | str
    full: Form | str

    @property
    def name(self) -> str:
        """As ``--only`` takes it."""
        return self.script

    def form(self, name: str) -> Form | str:
        """The form of that name, or why there is none."""
        return self.quick if name == "quick" else self.full
