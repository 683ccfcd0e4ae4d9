"""The whole run from a recipe: tune, search, train, compile, bench, report. Resumable at any point.

A run is one folder. Each stage writes its own files there and is recorded in ``state.json`` when it completes. A rerun
resumes with the first incomplete stage, which resumes from its own checkpoints.

``identity.json`` identifies the run by digests of the *contents* of its space, target and data set. Their names and
paths may change, their contents may not.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from tvmfbnet.advice import note
from tvmfbnet.config import validate
from tvmfbnet.data.places import check_data
from tvmfbnet.deploy.description import COMPARED
from tvmfbnet.dtypes import FLOAT32, MIXED
from tvmfbnet.errors import StorageError
from tvmfbnet.extras import require
from tvmfbnet.files import (
    clear_leftovers,
    digest,
    folder_lock,
    make_folder,
    read_model,
    read_yaml,
    write_json,
    write_text,
)
from tvmfbnet.latency.repository import target_folder
from tvmfbnet.latency.sources.mixed import MixedSource
from tvmfbnet.latency.sources.registry import table_source
from tvmfbnet.latency.sources.source import latency_table
from tvmfbnet.latency.sources.target import TargetSource
from tvmfbnet.latency.table import LatencyTable, target_by_share
from tvmfbnet.latency.table_io import require_batch, require_stated_dtype, table_content
from tvmfbnet.pipeline.recipe import Recipe
from tvmfbnet.pipeline.result import RunResult, result_values
from tvmfbnet.pipeline.sampled_images import images_to_calibrate, images_to_compare
from tvmfbnet.pipeline.tuning_options import TuneConfig, TuneOptions
from tvmfbnet.preflight import check_all, require_writable_folder
from tvmfbnet.progress import loading, say, step
from tvmfbnet.provisioning.ready import require_ready
from tvmfbnet.run_files import STAGES, FineTuningRecord, read_run_file, stage_progress
from tvmfbnet.search.constraints import constraints_of, require_feasible
from tvmfbnet.search.cost_model import CostSources
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.space.registry import load_space, spelled_like
from tvmfbnet.space.space import Space, content_key
from tvmfbnet.targets import simulated
from tvmfbnet.targets.definition import Target, in_dtype, load_target, resolve
from tvmfbnet.training.classes import fit_classes
from tvmfbnet.training.inputs import require_torch_device

# The stages that need the target's device.
_ON_DEVICE = frozenset({"tune", "search", "compile", "bench"})
_CONTENTS = {"space": "search space", "target": "target", "data": "data set"}
# What decides whether a net may be shipped, and nothing else: a run that was refused resumes with another value.
_GATES = ("max_accuracy_loss", "max_package_size")
# How to connect to a target, and its description: neither affects measurements.
_TARGET_PLACES = frozenset({"description", "exercised", "transport", "timeouts"})
_FILES = ("recipe.yaml", "identity.json", "state.json", "table.json", "closed_loop.json", "bench.json", "result.json")


def _target_key(target: Target) -> str:
    core = simulated.core_of(target)
    # How energy is measured changes no net.
    places: dict[str, Any] = {**dict.fromkeys(_TARGET_PLACES, True), "timing": {"energy_rounds", "energy_seconds"}}
    if core is None:  # as of before there were simulated targets
        places["simulation"] = True
    if target.batch == 1:  # and batches
        places["batch"] = True
    content = target.model_dump(mode="json", exclude=places)
    return digest(content if core is None else {**content, "simulation": simulated.model_digest(core)})


class Run:
    """One run folder and its stages.

    Args:
        recipe: what to do.
        folder: the run's folder; must hold no run of another recipe.
        logs_root: folder of all targets' measurements.
    """

    def __init__(self, recipe: Recipe, folder: Path, logs_root: Path | None = None) -> None:
        self.recipe, self.folder, self.logs_root = recipe, folder, logs_root
        self.space: Space = fit_classes(load_space(recipe.space), recipe.data)
        self.target: Target = load_target(recipe.spelled_target)
        note(
            **{"target": recipe.spelled_target, "named": self.target.name, "tuning_logs": logs_root},
            **{"space": spelled_like(recipe.space, self.space), "package": folder / "package"},
        )
        self._identity = {"space": content_key(self.space), "target": _target_key(self.target)}
        self._check()
        if _ON_DEVICE - self._state().keys():
            import tvmfbnet.autotune  # noqa: F401 - TVM before torch: as in tvmfbnet.deploy.package
        from tvmfbnet.data.datasets import load_data  # torch, which a refused recipe does without

        space = self.space
        data = load_data(recipe.data, space.height, space.width, space.input_channels, space.classes)
        self._identity["data"] = data.fingerprint
        self._claim()

    def _check(self) -> None:
        """Fails at once for anything that would fail a later stage, not after an hour of tuning."""
        require("report")
        recipe, space = self.recipe, self.space
        done = self._state()
        computing = {name: getattr(recipe, name).device for name in ("search", "train") if name not in done}
        logs = target_folder(self.target.name, self.logs_root)
        # Bounds on other quantities are checked with the latency table.
        bounds = [bound for bound in recipe.search.bounds if bound.quantity.follows_from_space]
        check_all(
            lambda: recipe.quantisation.require_quantised(self.target.data_type, self.target.name, recipe.is_mixed),
            lambda: check_data(recipe.data, space.height, space.width, space.input_channels, space.classes),
            lambda: require_writable_folder(self.folder),
            self._require_own,
            lambda: require_feasible(constraints_of(bounds, CostSources(space))),
            *([lambda: require_writable_folder(logs)] if "tune" not in done else []),
            *([lambda: require_ready(self.target)] if _ON_DEVICE - done.keys() else []),
            *(partial(require_torch_device, name) for name in dict.fromkeys(computing.values())),
        )

    def _claim(self) -> None:
        """Makes the folder this run's own, or sees that it is."""
        path, mark = make_folder(self.folder) / "recipe.yaml", self.folder / "identity.json"
        self._require_own()
        text = yaml.safe_dump(self.recipe.model_dump(mode="json"), sort_keys=False)
        if not path.exists() or not mark.exists() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
            write_json(mark, self._identity)

    def _require_own(self) -> None:
        """Refuses a folder that holds another run: other settings, or other contents behind the recorded names."""
        path, mark = self.folder / "recipe.yaml", self.folder / "identity.json"
        if path.exists():
            old = validate(Recipe, read_yaml(path), str(path))
            # With recorded digests, another name or path does not make another run.
            names = _CONTENTS if mark.exists() else ()
            free = {name: getattr(self.recipe, name) for name in (*names, *_GATES)}
            if old.model_copy(update=free) != self.recipe:
                raise StorageError(f"{self.folder} holds a run of another recipe; choose another --out or remove it")
        recorded = read_model(mark, dict[str, str]) if mark.exists() else {}
        for name, content in self._identity.items():
            if recorded.get(name, content) != content:
                raise StorageError(
                    f"{self.folder} holds a run whose {_CONTENTS[name]} had another content than "
                    f"{getattr(self.recipe, name)} has now; restore it, or choose another --out"
                )

    def go(self) -> RunResult:
        """Runs the stages that have not ended yet; StorageError where another process is at it in this folder."""
        with folder_lock(self.folder, "a run"):
            clear_leftovers(*(self.folder / name for name in _FILES))
            return self._go()

    def _go(self) -> RunResult:
        if "tune" in self._state():
            self._table()  # a damaged or foreign one, found out before the next stage is entered
        work = {
            "tune": self._tune,
            "search": self._search,
            "train": self._train,
            "compile": self._compile,
            "bench": self._bench,
        }
        for name in STAGES:
            if name not in work:  # the report is rewritten every time
                continue
            if name in self._state():
                say(f"{stage_progress(name)}: done before")
                continue
            say(stage_progress(name))
            started = time.monotonic()
            work[name]()
            write_json(self.folder / "state.json", {**self._state(), name: round(time.monotonic() - started, 1)})
        say(stage_progress("report"))
        return self._conclude()

    def _state(self) -> dict[str, float]:
        name = "state.json"
        return dict(read_run_file(self.folder, name)) if (self.folder / name).exists() else {}

    @property
    def _tuned(self) -> list[Target]:
        """The target in each dtype that the net may have, that of its package last."""
        return [in_dtype(self.target, FLOAT32.name), self.target] if self.recipe.is_mixed else [self.target]

    def _tune(self) -> None:
        if self.recipe.latency is None:
            with loading():
                from tvmfbnet.pipeline.tuning import tune_space

            options = TuneOptions.model_validate(self.recipe.tune.model_dump(exclude_unset=True))
            for target in self._tuned:
                tune_space(self.space, target, options, self.logs_root)
        # Frozen here: the run keeps the table that its decisions are based on.
        content = table_content(self._fresh_table(), self.space.distinct_parts())
        about = {"target": self.target.name, "space": self.space.to_dict(), "identity": self._table_identity()}
        write_json(self.folder / "table.json", {**content, **about})

    def _fresh_table(self) -> LatencyTable:
        if self.recipe.latency is not None:
            say("note: the recipe gives the latencies, so nothing is tuned")
            table = latency_table(table_source(self.recipe.latency), self.space)
            require_stated_dtype(table, self.target.dtype, self.recipe.latency)
            if not table.is_simulated:  # a model's latencies are of one image
                require_batch(table, self.target.batch, self.recipe.latency)
            return table
        from tvmfbnet.profiling.parts import context_of

        *_, context = contexts = [context_of(resolve(target)) for target in self._tuned]
        if self.recipe.is_mixed:
            source = MixedSource(self.target.name, self.logs_root, contexts=(contexts[0], context))
            return latency_table(source, self.space)
        return latency_table(TargetSource(self.target.name, self.logs_root, context), self.space)

    def _table_identity(self) -> dict[str, Any]:
        contents = {name: self._identity[name] for name in ("space", "target")}
        source = {} if self.recipe.latency is None else {"latency": self.recipe.latency}
        source |= {"dtype": MIXED} if self.recipe.is_mixed else {}
        return {**contents, **source, "tune": self.recipe.tune.model_dump(mode="json")}

    def _table(self) -> LatencyTable:
        values = read_run_file(self.folder, "table.json")
        recorded = values.get("identity", self._table_identity())
        # A setting that came after the table was written had what is its default now.
        if "tune" in recorded:
            recorded = {**recorded, "tune": {**TuneConfig().model_dump(mode="json"), **recorded["tune"]}}
        if recorded != self._table_identity():
            raise StorageError(
                f"{self.folder / 'table.json'} was measured for another space, target or tune section; "
                "remove it and the line tune of state.json beside it"
            )
        return LatencyTable.from_record(values)

    def _search(self) -> None:
        from tvmfbnet.search.search import search

        table, config = self._table(), self.recipe.search
        share = self.recipe.latency_target_share
        if share is not None:
            _, slowest_ms = table.range_ms(self.space)
            config = config.model_copy(update={"latency_target_ms": target_by_share(share, slowest_ms)})
        search(self.space, self.recipe.data, table, config, self.folder / "search")
        if config.latency_target_ms is not None and self.recipe.latency is None:
            self._close_loop(table, config.latency_target_ms)

    def _close_loop(self, table: LatencyTable, target_ms: float) -> None:
        """Times the found net, chooses again if it misses the target, and writes ``closed_loop.json``."""
        from tvmfbnet.deploy.trial import time_untrained
        from tvmfbnet.pipeline.closed_loop import Proposal, Timed, close_loop
        from tvmfbnet.search.search import choose_again

        def proposal(arch: str, accuracy: float | None) -> Proposal:
            return Proposal(arch, table.arch_ms(parse_arch(arch, self.space), self.space), accuracy or 0.0)

        def choose(factor: float) -> Proposal:
            best = choose_again(self.folder / "search", factor, data_spec=self.recipe.data)[0]
            return proposal(best.arch, best.accuracy)

        def measure(text: str) -> Timed:
            arch = parse_arch(text, self.space)
            mixed = self.recipe.is_mixed
            latency = time_untrained(arch, self.space, self.target, target_ms, self.logs_root, mixed)
            return Timed(latency.interval, latency.speed, latency.source)

        best = read_run_file(self.folder, "search/archs.json")[0]
        loop = close_loop(proposal(best["arch"], best["accuracy"]), target_ms, measure, choose, tell=say)
        write_json(self.folder / "closed_loop.json", loop.to_dict())

    def _closed_loop(self) -> dict[str, Any] | None:
        """The content of ``closed_loop.json``; None without a latency target."""
        name = "closed_loop.json"
        return dict(read_run_file(self.folder, name)) if (self.folder / name).exists() else None

    def _arch(self) -> Arch:
        loop = self._closed_loop()
        if loop is not None:
            return parse_arch(str(loop["arch"]), self.space)
        return parse_arch(str(read_run_file(self.folder, "search/archs.json")[0]["arch"]), self.space)

    def _train(self) -> None:
        from tvmfbnet.training.train import train

        train(self._arch(), self.space, self.recipe.data, self.recipe.train, self.folder / "train")
        if self.recipe.quantisation.fine_tune_epochs:
            self._fine_tune()

    def _fine_tune(self) -> None:
        from tvmfbnet.pipeline.fine_tuning import FOLDER, fine_tune_quantised
        from tvmfbnet.training.train import load_net

        net, _ = load_net(self.folder / "train" / "net.pt")
        recipe = self.recipe
        fine_tune_quantised(net, recipe.data, self.target, recipe.quantisation, recipe.train, self.folder / FOLDER)

    def _compile(self) -> None:
        from tvmfbnet.autotune.database import existing_database
        from tvmfbnet.deploy.package import compile_net
        from tvmfbnet.deploy.parity import certify
        from tvmfbnet.deploy.trial import chosen_dtypes, predicted_by, with_mixed_prediction
        from tvmfbnet.pipeline.fine_tuning import FOLDER, fine_tuned_model
        from tvmfbnet.provisioning.loopback import connect_device
        from tvmfbnet.training.train import load_net

        target = resolve(self.target)
        net, about = load_net(self.folder / "train" / "net.pt")
        database, logs, tuning = existing_database(target, self.logs_root), self.logs_root, self._fine_tuning()
        dtypes, float32 = (
            chosen_dtypes(self._arch(), self.space, target, logs) if self.recipe.is_mixed else (None, None)
        )
        with step("compiling the net"):
            classes, images = about["class_names"], images_to_calibrate(self.recipe.data, self.space, self.target)
            model, out = fine_tuned_model(tuning, self.folder / FOLDER), self.folder / "package"
            package = compile_net(net, target, database, out, classes, images, model, float32, about["task"])
        package = package.with_description(fine_tuning=tuning)
        package.require_size(self.recipe.max_package_bytes)  # before a device is asked
        compared = images_to_compare(self.recipe.data, self.space, self.target)
        with connect_device(target) as endpoint, step("checking parity with PyTorch on the device"):
            package = certify(package, net, target, endpoint, compared, self.recipe.max_accuracy_loss)
        if dtypes is None:
            package = predicted_by(package, self._table(), self._arch(), self.space)
        else:
            package = with_mixed_prediction(package, dtypes, target)
        package = package.with_description(latency_target_ms=self._target_ms())
        package.require_size(self.recipe.max_package_bytes)  # its description says more now
        parity = package.description.parity
        classes = {} if parity.agreement is None else {name: getattr(parity, name) for name in COMPARED}
        write_json(self.folder / "parity.json", {"parity_error": parity.error, **classes})

    def _fine_tuning(self) -> FineTuningRecord | None:
        """The judgement on the fine-tuning; None where the recipe asks for none."""
        if not self.recipe.quantisation.fine_tune_epochs:
            return None
        return FineTuningRecord.model_validate(read_run_file(self.folder, "fine_tuning/fine_tuning.json"))

    def _bench(self) -> None:
        from tvmfbnet.deploy.package import load_package
        from tvmfbnet.deploy.trial import bench_with_probe

        target = resolve(self.target)
        package = load_package(self.folder / "package", target)
        result = bench_with_probe(package, self._arch(), self.space, target, self._target_ms(), self.logs_root)
        package.with_description(latency=result.net.to_dict(target))
        write_json(self.folder / "bench.json", result.values)

    def _target_ms(self) -> float | None:
        """The latency target that the search had."""
        value = read_run_file(self.folder, "search/search.json")["latency_target_ms"]
        return None if value is None else float(value)

    def _conclude(self) -> RunResult:
        with loading("matplotlib"):
            from tvmfbnet.report.page import write_report

        values = result_values(self.folder, self._arch(), self.space, self.target.name, self._table())
        values |= {"stage_seconds": self._state(), "closed_loop": self._closed_loop()}
        write_json(self.folder / "result.json", values)
        with step("writing the report", patience=1.0):
            return RunResult(values, write_report(self.folder))


def recorded_target_key(target: Target) -> str:
    """What ``identity.json`` knows a target by: the content of its file, but for how to reach it."""
    return _target_key(target)
