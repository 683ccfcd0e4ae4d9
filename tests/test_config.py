"""Every number of every configuration has bounds, and what no configuration can mean is refused in one line."""

import importlib
import pkgutil
import time
import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

import annotated_types
import pytest
import yaml
from pydantic.fields import FieldInfo

import tvmfbnet
from tvmfbnet.config import Config, validate
from tvmfbnet.errors import ConfigError, UserError
from tvmfbnet.files import read_yaml
from tvmfbnet.latency.measurement import Measurement
from tvmfbnet.pipeline.recipe import Recipe, load_recipe
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.space.registry import load_space
from tvmfbnet.space.schema import build_space
from tvmfbnet.targets.definition import Target, load_target
from tvmfbnet.targets.sections import TimingPolicy
from tvmfbnet.training.config import TrainConfig


def config_models() -> list[type[Config]]:
    """Every subclass of Config in the package that holds settings (a measurement holds none)."""
    for module in pkgutil.walk_packages(tvmfbnet.__path__, "tvmfbnet."):
        if "config" in module.name or module.name.split(".")[-1] in ("schema", "target", "pipeline"):
            importlib.import_module(module.name)
    models, left = [], [Config]
    while left:
        subclasses = left.pop().__subclasses__()
        models += subclasses
        left += subclasses
    return [model for model in models if model.__module__.startswith("tvmfbnet.") and model is not Measurement]


def numbers(kind: Any, limits: tuple[Any, ...]) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """The number types within a type, each with the constraints that stand at it."""
    origin = get_origin(kind)
    if kind in (int, float):
        yield kind, limits
    elif origin is Annotated:
        inner, *more = get_args(kind)
        yield from numbers(inner, (*limits, *more))
    elif origin in (Union, types.UnionType):
        for one in get_args(kind):
            yield from numbers(one, limits)
    elif origin is not None:  # a tuple's or dict's own constraints are not its elements'
        for one in get_args(kind):
            yield from numbers(one, ())


def bounded(limits: tuple[Any, ...]) -> tuple[bool, bool]:
    """Whether the constraints have a lower and an upper bound."""
    flat = [item for limit in limits for item in (limit.metadata if isinstance(limit, FieldInfo) else (limit,))]
    kinds = annotated_types
    lower = any(isinstance(item, kinds.Ge | kinds.Gt) for item in flat)
    return lower, any(isinstance(item, kinds.Le | kinds.Lt) for item in flat)


def test_every_number_of_every_configuration_has_bounds():
    models = config_models()
    assert {SearchConfig, TrainConfig, Recipe, Target, TimingPolicy} <= set(models)
    seen, boundless = 0, []
    for model in models:
        for name, field in model.model_fields.items():
            for _, limits in numbers(field.annotation, tuple(field.metadata)):
                seen += 1
                if bounded(limits) != (True, True):
                    boundless.append(f"{model.__name__}.{name}")
    assert seen > 80
    assert not boundless, boundless


def test_a_number_without_bounds_would_be_found():
    class Loose(Config):
        one: int = 0
        many: tuple[Annotated[int, annotated_types.Ge(0)], ...] = ()

    fields = Loose.model_fields
    assert [bounded(limits) for _, limits in numbers(fields["one"].annotation, ())] == [(False, False)]
    assert [bounded(limits) for _, limits in numbers(fields["many"].annotation, ())] == [(True, False)]


@pytest.mark.parametrize(
    "setting",
    [
        {"weight_lr": 1e308},
        {"weight_lr": float("nan")},
        {"target_strength": float("inf")},
        {"latency_target_ms": "1e999"},
        {"latency_target_ms": "inf"},
        {"seed": 2**64},
        {"seed": -1},
        {"threads": 10**6},
        {"samples": 10**9},
        {"temperature": 1e-300},
        {"temperature_decay": 1e-9},
        {"epochs": 10**12},
    ],
)
def test_settings_that_are_no_numbers_of_this_world_are_refused(setting):
    (name,) = setting
    with pytest.raises(ConfigError, match=name.split("_")[0]):
        validate(SearchConfig, setting, "search.yaml")


@pytest.mark.parametrize(
    "text", ["a: .inf", "a: -.Inf", "a: .NaN", "a: 1e999", "a: 18446744073709551617", "a: 0x" + "f" * 5000]
)
def test_no_yaml_file_holds_such_numbers_wherever_they_stand(tmp_path, text):
    (tmp_path / "a.yaml").write_text(f"deep:\n  - {{{text}}}\n")
    with pytest.raises(ConfigError, match="at line 2"):
        read_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: !!int x", "at line 1: 'x' is not a valid value of type int"),
        ("a: !!float x", "type float"),
        ("a: !!timestamp x", "timestamp are not supported"),
        ("a: !!timestamp 2024-01-01", "timestamp are not supported"),
        ("a: !!bool x", "type bool"),
        ("a: !!binary x", "binary are not supported"),
        ("a: !!set {b}", "set are not supported"),
        ("a: !!python/object/apply:os.system [ls]", "are not supported"),
        ("a: !mine x", "are not supported"),
        ("a: 0x_", "is not a plain number"),
        ("a: 1:30", "'1:30' is not a plain number; put text in quotes"),
        ("a: 010", "is not a plain number"),
        ("a: 1_0", "is not a plain number"),
        ("a: 1_0.5", "is not a plain number"),
        ("a: " + "9" * 5000, "type int"),
        ("a: 1\nb: 2\na: 3", "at line 3: 'a' is given twice, first in line 1"),
        ("a: {b: {c: 1, c: 2}}", "'c' is given twice"),
        ("on: 1", "must be text"),
        ("? [a]\n: 1", "must be text"),
        ("? {a: 1}\n: 1", "must be text"),
        ("a: " + "[" * 60 + "]" * 60, "nested more than 40 deep"),
        ("a: " + "[" * 100_000, "not valid YAML"),
        ("a: &x [*x]", "stands inside what it repeats"),
        ("a: &x {<<: *x}", "stands inside what it repeats"),
        ("a: *x", "not valid YAML"),
        ("a: b: c", "at line 1"),
        ("a: 1\n---\na: 2", "not valid YAML"),
        ("a: \x00", "not valid YAML"),
        ("[1]", "top level must be a mapping"),
        ("", "top level must be a mapping"),
    ],
)
def test_yaml_that_means_nothing_here_is_one_line(tmp_path, text, said):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert said in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_dates_are_texts_and_exponents_need_no_point(tmp_path):
    (tmp_path / "a.yaml").write_text("a: 2024-13-45\nb: 2024-01-02\nc: 1e-3\nd: -2E+2\ne: 12e03\n")
    values = read_yaml(tmp_path / "a.yaml")
    assert values == {"a": "2024-13-45", "b": "2024-01-02", "c": 1e-3, "d": -200.0, "e": 12000.0}


def test_anchors_and_merges_of_a_sane_size_work(tmp_path):
    (tmp_path / "a.yaml").write_text("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}\ne: [*x, *x]\n")
    assert read_yaml(tmp_path / "a.yaml")["d"] == {"b": 1, "c": 3}


def test_a_long_text_repeated_is_a_bomb_too(tmp_path):
    (tmp_path / "bomb.yaml").write_text(f"a: &a {'x' * 1_000_000}\nb: [{', '.join(['*a'] * 1000)}]\n")
    with pytest.raises(ConfigError, match="more than 100000 values"):
        read_yaml(tmp_path / "bomb.yaml")


def test_an_alias_bomb_is_refused_at_once(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    started = time.process_time()
    with pytest.raises(ConfigError, match="more than 100000 values"):
        read_yaml(tmp_path / "bomb.yaml")
    assert time.process_time() - started < 1


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
@pytest.mark.parametrize("load", [load_space, load_target, load_recipe])
def test_another_encoding_is_one_clear_line(tmp_path, load, encoding):
    path = tmp_path / "a.yaml"
    path.write_bytes("description: für Gerät 7\n".encode(encoding))
    with pytest.raises(UserError, match=r"a\.yaml is (UTF-16|not UTF-8) text.*save it as UTF-8"):
        load(str(path))


def space_file(**changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = {
        "input": {"channels": 3, "height": 224, "width": 224},
        "classes": 10,
        "stem": {"channels": 16},
        "stages": [{"channels": 16, "layers": 2}],
        "last_channels": 128,
    }
    return {**content, **changes}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stages": [{"channels": 16, "layers": 1000}] * 50}, "50000 layers"),
        ({"blocks": ["k3_e1"] * 100_000}, "at most 1000"),
        ({"blocks": [f"k3_e{n}" for n in range(1, 99)] * 10}, "listed more than once"),
        ({"blocks": {"kernels": [3, 5, 7], "expansions": list(range(1, 99)), "groups": [1, 2, 4, 8]}}, "1176 blocks"),
        ({"blocks": {"kernels": [3] * 10**6, "expansions": [1]}}, "at most 100"),
        ({"blocks": {"kernels": [3], "expansion": [1]}}, "expansion: unknown name"),
        (
            {
                "stages": [
                    {"channels": 16, "layers": 1000, "blocks": [f"k{k}_e{e}" for k in (3, 5) for e in range(1, 99)]}
                ]
            },
            "196000 candidates",
        ),
        ({"batch": 8}, "batch is not supported"),
        ({"classes": 10**12}, "classes"),
    ],
)
def test_a_space_beyond_all_use_is_refused_within_a_second(changes, said):
    started = time.process_time()
    with pytest.raises(ConfigError) as caught:
        build_space(space_file(**changes), "big", "big.yaml")
    assert said in str(caught.value) and len(str(caught.value)) < 1000
    assert time.process_time() - started < 2


def test_a_large_space_is_read_in_linear_time():
    blocks = [f"k{k}_e{e}" for k in (3, 5) for e in range(1, 50)]
    started = time.process_time()
    space = build_space(space_file(stages=[{"channels": 16, "layers": 1000, "blocks": blocks}]), "big", "big.yaml")
    assert len(space.layers) == 1000 and len(space.distinct_blocks()) == 98
    assert time.process_time() - started < 5


@pytest.mark.parametrize("value", [True, False])
def test_a_boolean_is_not_a_number(value):
    with pytest.raises(ConfigError, match="seed: expected a number or text, not a boolean"):
        validate(SearchConfig, {"seed": value}, "search.yaml")
    assert validate(SearchConfig, {"augment_flip": value}, "search.yaml").augment_flip is value


def test_a_dtype_without_kernels_is_one_clear_line():
    values = load_target("host").model_dump(mode="json")
    with pytest.raises(ConfigError, match="dtype: 'bfloat16' is not supported: nets are compiled and timed in float32"):
        validate(Target, {**values, "dtype": "bfloat16"}, "bf16.yaml")
    with pytest.raises(ConfigError, match=r"dtype is float16, which has kernels for .* alone, not for tvm.kind c"):
        validate(Target, {**values, "tvm": {"kind": "c"}, "dtype": "float16"}, "c.yaml")


@pytest.mark.parametrize("name", ["n" * 300, "n" * 5000, "n" * 300 + ".yaml", "\udcff", "a/b", ".."])
@pytest.mark.parametrize("load", [load_space, load_target, load_recipe])
def test_names_that_no_file_can_have_are_one_line(load, name):
    with pytest.raises(UserError):
        load(name)


def test_a_constructor_tells_all_that_is_wrong_in_one_line():
    with pytest.raises(ConfigError, match=r"^SearchConfig: 2 problems: epochs: .*; bogus: unknown name$") as caught:
        SearchConfig(epochs=0, bogus=1)
    assert "\n" not in str(caught.value)
    values = load_target("host").model_dump(mode="json")
    with pytest.raises(ConfigError, match=r"2 problems: threads: .*timing.repeats: "):  # a part's problem hides none
        validate(Target, {**values, "threads": 0, "timing": {"repeats": 0}}, "host.yaml")


def test_a_folder_may_have_an_at_sign_in_its_name(tmp_path):
    folder = tmp_path / "me@home"
    folder.mkdir()
    (folder / "mine.yaml").write_text(yaml.safe_dump(space_file()))
    assert load_space(str(folder / "mine.yaml")).height == 224
    assert load_space(str(folder / "mine.yaml@64x32")).width == 32
    for size in ("9" * 5000, "٦٤", "64x", "0"):
        with pytest.raises(UserError):
            load_space(f"fbnet@{size}")


def test_help_names_the_real_defaults():
    from tvmfbnet.cli.tune import QualityChoice, tune_command
    from tvmfbnet.pipeline.tuning import TRIALS_A_TASK
    from tvmfbnet.pipeline.tuning_options import TuneConfig

    quick, normal, best = (TRIALS_A_TASK[name] for name in ("quick", "normal", "best"))
    assert f"default {normal} per task" in str(TuneConfig.model_fields["trials"].description)
    for text in (str(QualityChoice.__doc__), str(tune_command.__annotations__["quality"])):
        assert f"{quick}, {normal} or {best} trials" in text
