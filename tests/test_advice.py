"""Every command that an error or a note advises runs as it stands: complete, quoted, as the user spelled things.

All texts of the package are searched for commands that were not made by :mod:`tvmfbnet.advice`; every call of it is
held against the real command line; and errors that users meet are brought about and their commands read by it.
"""

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml
from forked import run_command

from tvmfbnet import advice
from tvmfbnet.cli.main import app, main
from tvmfbnet.latency.verdict import Interval, Verdict
from tvmfbnet.provisioning.loopback import free_port

PACKAGE = Path(advice.__file__).parent
TOPS = set(typer.main.get_command(app).commands)


def parse(words):
    """Has the command line read its words without doing anything; a usage error where they do not fit."""
    command, context = typer.main.get_command(app), None
    context = command.make_context("tvmfbnet", list(words))
    while getattr(command, "commands", None):
        words_left = [*context._protected_args, *context.args]
        name, command, words_left = command.resolve_command(context, words_left)
        context = command.make_context(name, words_left, parent=context)


def advised(text):
    """The words of each command of ours in a text."""
    return [shlex.split(match[1])[1:] for match in re.finditer(r"`(tvmfbnet [^`]+)`", text)]


def sources():
    return sorted(PACKAGE.rglob("*.py"))


def spoken_texts(tree):
    """The texts of a module that users may see: those that are no docstrings and no help of an option."""
    unseen = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in unseen:
            yield node


# What is written into files that are the user's, and what is no command.
ALLOWED = ("# Run it: tvmfbnet run FILE.yaml", "`tvmfbnet spaces show FILE.yaml`", "'tvmfbnet device programs'")


def test_no_text_names_a_command_by_hand():
    by_hand = [
        f"{file.relative_to(PACKAGE)}:{node.lineno}: {node.value!r}"
        for file in sources()
        for node in spoken_texts(ast.parse(file.read_text(encoding="utf-8")))
        for match in re.finditer(r"tvmfbnet ([a-z]+)", node.value)
        if match[1] in TOPS
    ]
    assert not [line for line in by_hand if not any(text in line for text in ALLOWED)]


def calls():
    """Every call of ``advice.command`` and its kin: file, line, function, name of the command, its options."""
    for file in sources():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            named = getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""
            if named == "command" and node.args and isinstance(node.args[0], ast.Constant | ast.JoinedStr):
                yield f"{file.relative_to(PACKAGE)}:{node.lineno}", node


def test_every_call_names_a_command_and_options_that_there_are():
    checked = 0
    for where, call in calls():
        text = ast.unparse(call.args[0])
        if not re.match(r"f?['\"](device|tune|tracker|bench|latency)\b", text):
            continue  # typer's own decorators
        names = [text.strip("f'\"")]
        if "{action}" in names[0]:
            names = [names[0].replace("{action}", action) for action in ("push", "start", "stop", "logs")]
        for name in names:
            command = typer.main.get_command(app)
            for word in name.split():
                command = command.commands[word]
            options = {option for parameter in command.params for option in parameter.opts}
            asked = {f"--{keyword.arg.replace('_', '-')}" for keyword in call.keywords if keyword.arg}
            assert asked <= options | ({"--folder"} if name == "device logs" else set()), f"{where}: {asked - options}"
            checked += 1
    assert checked >= 8


def test_commands_are_quoted_and_hold_what_was_given():
    assert advice.command("tune", target="my phone.yaml", more=True, time=None, learn_from=["a", "b"]) == (
        "`tvmfbnet tune --target 'my phone.yaml' --more --learn-from a --learn-from b`"
    )
    assert advice.tune("host") == "`tvmfbnet tune --target host --space fbnet`"
    advice.note(target="targets/my host.yaml", named="mine", space="s.yaml,classes=3", tuning_logs=Path("logs"))
    assert advice.tune("mine", more=True) == (
        "`tvmfbnet tune --target 'targets/my host.yaml' --space s.yaml,classes=3 --more --tuning-logs logs`"
    )
    assert "--target other " in advice.tune("other"), "another target than the one at hand is named by itself"
    for text in (advice.tune("mine"), advice.validate("mine"), advice.bring_table("mine"), advice.tune_more()):
        (words,) = advised(text)
        parse(words)


def test_no_package_or_target_at_hand_is_no_half_a_command():
    assert advice.bench(8.0) == "" == advice.tune_more()
    advice.note(target="host", named="host", package="out dir/package")
    (words,) = advised(advice.bench(1e-5))
    parse(words)
    assert words == ["bench", "out dir/package", "--target", "host", "--latency-target", "0.000010ms"]


@pytest.fixture
def desk(tmp_path, tiny_space_file, monkeypatch):
    """A folder of work whose names need quotes, with a target whose tracker is away."""
    folder = tmp_path / "my work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tiny_space_file.rename(folder / "my space.yaml")
    board = {
        **{"name": "board", "description": "a board", "exercised": False, "tvm": {"kind": "llvm"}},
        "transport": {"kind": "tracker", "port": free_port(), "key": "board"},
    }
    (folder / "my board.yaml").write_text(yaml.safe_dump(board))
    return folder


def error_of(*words):
    done = run_command(words)
    assert done.returncode == 2, done.stderr
    return done.stderr.strip().splitlines()[-1]


SPACE, BOARD = ("--space", "my space.yaml"), ("--target", "my board.yaml")


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize(
    ("words", "commands"),
    [
        (("tune", *BOARD, *SPACE), [["tracker"]]),
        (("devices", "--tracker", f"127.0.0.1:{free_port()}"), [["tracker"]]),
        (("device", "start", *BOARD, "--ssh", "me@board"), [["tracker"]]),
        (("latency", "show", *BOARD, *SPACE), [["tune", *BOARD, *SPACE], ["latency", "import", "FILE.csv", *BOARD]]),
        (("latency", "fit", *BOARD), [["tune", *BOARD, "--space", "fbnet"], ["latency", "import", "FILE.csv", *BOARD]]),
        (
            ("latency", "show", *BOARD, *SPACE, "--tuning-logs", "my logs"),
            [["tune", *BOARD, *SPACE, "--tuning-logs", "my logs"], ["latency", "import"]],
        ),
        (("latency", "compare", "pixel9", "host"), [["latency", "import", "FILE.csv", "--target", "pixel9"]]),
        (
            ("arch", "describe", "k3_e1/k3_e1,skip", *SPACE, *BOARD),
            [["tune", *BOARD, *SPACE], ["latency", "import", "FILE.csv", *BOARD]],
        ),
    ],
)
def test_the_commands_of_errors_that_users_meet_are_read_by_the_command_line(words, commands):
    error = error_of(*words)
    commands_told = advised(error)
    assert len(commands_told) == len(commands), error
    for told, wanted in zip(commands_told, commands, strict=True):
        assert told[: len(wanted)] == wanted, error
        parse(told)


def test_a_search_advises_to_tune_for_the_classes_of_its_data(desk):
    for part in ("train", "val"):
        for kind in ("a", "b", "c"):
            (desk / "own images" / part / kind).mkdir(parents=True)
            (desk / "own images" / part / kind / "x.png").touch()
    text = (desk / "my space.yaml").read_text()
    (desk / "my space.yaml").write_text(text.replace("channels: 1,", "channels: 3,"))
    error = error_of("search", *BOARD, *SPACE, "--data", "imagefolder:own images")
    tune, bring = advised(error)
    assert tune == ["tune", *BOARD, "--space", "my space.yaml,classes=3"], error
    parse(tune)
    parse(bring)


def test_what_a_command_remembers_is_not_the_next_ones(desk, capsys):
    for words in (["latency", "show", *BOARD, *SPACE], ["latency", "fit", "--target", "host"]):
        with pytest.raises(SystemExit):
            main(words)
    assert advised(capsys.readouterr().err.splitlines()[-1])[0] == ["tune", "--target", "host", "--space", "fbnet"]


def test_verdicts_advise_whole_commands_where_the_package_is_known():
    advice.note(target="rpi4", named="rpi4", space="fbnet@64,classes=3", package="runs/mine/package")
    verdicts = {
        "noisy": Verdict(8.0, Interval(9.0, 7.0, 12.0, 9)),
        "undecided": Verdict(10.0, Interval(10.0, 9.8, 10.2, 9)),
        "missed": Verdict(8.0, Interval(10.0, 9.9, 10.1, 9)),
        "slow": Verdict(8.0, Interval(9.0, 8.9, 9.1, 9), 1.5),
    }
    for name, verdict in verdicts.items():
        (words,) = advised(verdict.advice())
        assert words[0] == ("tune" if name == "missed" else "bench"), verdict.advice()
        parse(words)
