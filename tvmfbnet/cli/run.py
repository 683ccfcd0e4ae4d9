"""``tvmfbnet run``: a whole recipe, resumable at any point."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tvmfbnet.cli.output import JsonFlag, MixableDtypeOption, print_json, print_table
from tvmfbnet.dtypes import FLOAT32

if TYPE_CHECKING:
    from tvmfbnet.latency.units import Unit


def run_command(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe (demo) or a .yaml file.")],
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; default runs/RECIPE, or runs/RECIPE-DTYPE.")
    ] = None,
    dtype: MixableDtypeOption = None,
    tuning_logs: Annotated[Path | None, typer.Option(help="Folder of all targets' measurements.")] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the recipe with every setting, commented, to edit; and stop.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Tune, search, train, compile, check, time and report; run again, it resumes.

    Ends with a verdict on the latency target: exit code 0 where it is met or there is none, 3 where it is missed or
    the device is too noisy to tell.

    Example: tvmfbnet run demo
    """
    if print_config:
        from tvmfbnet.dtypes import dtype_or_mixed
        from tvmfbnet.pipeline.recipe import Recipe, load_recipe
        from tvmfbnet.settings import commented_yaml

        _, loaded = load_recipe(recipe)
        loaded = loaded if dtype is None else loaded.model_copy(update={"dtype": dtype_or_mixed(dtype)})
        print(commented_yaml(Recipe, loaded.model_dump(mode="json", exclude_unset=True)), end="")
        return

    from tvmfbnet.api.run import run

    result = run(recipe, out=out, dtype=dtype, tuning_logs=tuning_logs)
    if as_json:
        print_json({**result.values, "report": str(result.report)})
    else:
        print_table("", ("what", "result"), result_rows(result.values))
        print(f"found arch: {result.values['arch']}")
        print(f"report: {result.report}")
    raise typer.Exit(result.exit_code)


def result_rows(values: dict[str, Any]) -> list[tuple[str, str]]:
    """The table of a finished run, the verdict first, the latency as timed before all that was computed from it."""
    from tvmfbnet.latency.origin import NO_DEVICE, SIMULATED, timed_of
    from tvmfbnet.latency.units import unit_for
    from tvmfbnet.latency.verdict import Interval
    from tvmfbnet.run_files import stage_title

    reference, speed, bounds = values["onnxruntime_ms"], values["speed_factor"], values["interval"]
    source, timed_ms = timed_of(values)
    unit = unit_for([values["predicted_ms"], timed_ms, reference])
    verdict = []
    if values["verdict"] is not None:
        on_model = f", {SIMULATED} ({NO_DEVICE})" if source == SIMULATED else ""
        verdict = [("latency target", f"{unit.text(values['latency_target_ms'])}: {values['verdict']}{on_model}")]
        verdict += [("advice", values["advice"])] if values["advice"] else []
    interval = Interval(timed_ms or 0.0, bounds["low_ms"], bounds["high_ms"], bounds.get("visits", 0))
    timed = interval.describe(unit) + (f" ({NO_DEVICE})" if source == SIMULATED else "")
    return [
        *verdict,
        *(("warning", notice["text"]) for notice in values.get("notices", [])),
        *_loop_rows(values.get("closed_loop"), unit),
        _prediction_row(values, unit),
        (f"{source} latency" + (", whole net" if source == SIMULATED else ""), timed),
        *([] if speed is None else [("speed factor", speed["description"])]),
        ("ONNX Runtime", "not on this device" if reference is None else unit.text(reference)),
        ("parity error", f"{values['parity_error']:.1e} relative to PyTorch"),
        *_dtype_rows(values),
        ("tuned kernels", f"{values['kernels_found']} of {values['kernels_needed']} conv kernels"),
        (f"test {values.get('metric', 'accuracy')}", f"{values['test_accuracy']:.2%}"),
        *((f"time: {stage_title(stage)}", f"{seconds:.0f} s") for stage, seconds in values["stage_seconds"].items()),
    ]


def _dtype_rows(values: dict[str, Any]) -> list[tuple[str, str]]:
    """The dtype and what it does to the net's answers; nothing in float32."""
    from tvmfbnet.deploy.description import COMPARED, Parity
    from tvmfbnet.run_files import FineTuningRecord

    dtype = values.get("dtype", FLOAT32.name)
    if dtype == FLOAT32.name:
        return []
    compared = Parity(**{name: values[name] for name in COMPARED if name in values}).describe_agreement()
    rows = [("dtype", dtype if compared is None else f"{dtype}: {compared}")]
    floats, tuning = values.get("float32_units", []), values.get("fine_tuning")
    rows += [("in float32", ", ".join(floats))] if floats else []
    return rows if tuning is None else [*rows, ("fine-tuning", FineTuningRecord.model_validate(tuning).describe())]


def _prediction_row(values: dict[str, Any], unit: Unit) -> tuple[str, str]:
    """The predicted latency, and how much of it was measured; a simulated one says that no device took it."""
    from tvmfbnet.latency.origin import NO_DEVICE

    source = values.get("latency_source") or {}
    if source.get("simulated"):
        return "simulated latency", f"{unit.text(values['predicted_ms'])} ({source['name']}: {NO_DEVICE})"
    return "predicted latency", f"{unit.text(values['predicted_ms'])} ({values['measured_share']:.0%} of it measured)"


def _loop_rows(loop: dict[str, Any] | None, unit: Unit) -> list[tuple[str, str]]:
    """What the closed loop timed and why it kept what it kept; nothing where it is of an earlier version."""
    if loop is None or not loop.get("why"):
        return []
    from tvmfbnet.latency.origin import timed_of
    from tvmfbnet.latency.verdict import Interval

    rows = []
    for turn in loop["attempts"]:
        (source, timed_ms), bounds = timed_of(turn), turn["interval"]
        interval = Interval(timed_ms or 0.0, bounds["low_ms"], bounds["high_ms"], bounds.get("visits", 0))
        timed = f"{source} {interval.describe(unit)}"
        told = f"predicted {unit.text(turn['predicted_ms'])}, {timed}, {turn['verdict']}; {turn['next']}"
        rows.append((f"turn {turn['turn']}", told))
    return [*rows, ("kept", loop["why"])]
