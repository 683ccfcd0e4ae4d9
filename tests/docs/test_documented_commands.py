"""Every command line that README and docs show runs: as it stands, or with a small space, little data and few trials.

A page is walked from top to bottom in one folder; its board is this machine behind a real sshd, a real tracker and the
real server program. What cannot run here is in ``SKIPPED`` with its reason; a command without a rule fails the test.
"""

import functools
import json
import re
import shutil
import sys

import pytest
import typer
from documented import ROOT, CommandLine, command_lines, inline_commands, pages
from forked import PRELOAD, run_forked
from loopback_ssh import has_sshd, loopback_sshd
from walk import ARCH, BOARDS, Walk, tvmfbnet

from tvmfbnet.cli.main import app
from tvmfbnet.rpc.tracker import port_is_open, query_tracker

SKIPPED = {
    "scripts/demo": "ten minutes; `tvmfbnet run` is run here with a smaller recipe",
    "scripts/test": "it is what runs this test",
    "pip install": "a test installs nothing",
    "git clone": "a test fetches nothing from outside",
    "ssh -R": "a tunnel by hand; `device start` opens the same one here",
    "adb reverse": "needs a phone; tests/provisioning/test_shells.py walks the same way with a stand-in",
    "adb forward": "needs a phone; tests/provisioning/test_shells.py walks the same way with a stand-in",
    "ANDROID_NDK_HOME=/path/to/ndk": "needs an NDK; tests/provisioning/test_programs.py builds with a stand-in",
}
# Lines that another page shows as well, with the page that runs them.
SHOWN_TWICE = {
    ("README.md", "tvmfbnet run demo --out runs/demo"): "docs/tutorial/demo.md",
    ("README.md", "tvmfbnet report runs/demo"): "docs/tutorial/demo.md",
    ("README.md", "tvmfbnet tune --target sim_a76 --space fbnet_mini"): "docs/how-to/simulated-devices.md",
}
# Pages whose reader has measured before, and which targets; README tunes its board itself.
MEASURED = {
    "docs/how-to/dtypes.md": ("host",),
    "docs/how-to/energy.md": ("host",),
    "docs/how-to/latency-tables.md": ("host", "rpi4"),
    "docs/how-to/search.md": ("host", "rpi4"),
    "docs/how-to/several-devices.md": ("host", "rpi4"),
    "docs/how-to/tune.md": ("host", "rpi4"),
    "docs/results/int8.md": ("host",),
    "docs/results/mixed-dtypes.md": ("host",),
    "docs/tutorial/demo.md": ("host",),
    "docs/tutorial/own-images.md": ("host",),
    "README.md": ("host",),
}
# Nets of shipped spaces that pages show.
OTHER_ARCHS = ("fbnet_a", "fbnet_c", "k3_e1,skip/k5_e3,k3_e1,skip/k3_e6,k3_e3")
# Pages whose reader has a file with a table of another device.
HAVE_A_TABLE = ("docs/how-to/latency-tables.md", "docs/how-to/several-devices.md")


def set_option(words, name, value):
    """The words with an option's value replaced, or the option added."""
    words = list(words)
    if name not in words:
        return [*words, name, value]
    words[words.index(name) + 1] = value
    return words


def smaller_data(spec, walk):
    """The walk's own images of the kind that a spec names."""
    if spec.startswith("imagefolder:"):
        return "imagefolder:images"
    kind, _, options = spec.partition("?")
    if kind == "fashion_scenes":
        return f"{kind}:{walk.data.partition(':')[2]}?{options}&images=60"
    return walk.data


def smaller(words, walk):
    """The words of one ``tvmfbnet`` command with a small space, little data and few trials."""
    words = [word.replace("9190", str(walk.port)) for word in words]
    own_space = next((word for word in words if word.endswith("/space.yaml")), None)  # of the page's pruning
    arch = walk.found_arch() if own_space is None else pruned_arch(walk.folder / own_space)
    words = [arch if word == "ARCH" else word for word in words]
    if "--latency-target" in words:
        words = set_option(words, "--latency-target", "1000ms")
    if "--data" in words:
        words = set_option(words, "--data", smaller_data(words[words.index("--data") + 1], walk))
    if "--ssh" in words:
        place = words.index("--ssh")
        words = [*words[:place], *walk.way(), *words[place + 2 :]]
    groups = ("latency", "device", "targets", "spaces", "arch", "report")
    command = " ".join(words[:2]) if words[0] in groups else words[0]
    shown = "--space" in words and words[words.index("--space") + 1] in walk.shown
    if "--space" in words and command != "arch describe" and not shown and own_space is None:
        if any(word.startswith("fashion_scenes") for word in words):
            walk.space = "tiny.yaml@32"  # from here on: a head for masks needs a multiple of 8
        words = set_option(words, "--space", walk.space)
    if command != "arch describe":
        words = [ARCH if word in OTHER_ARCHS else word for word in words]
    if "--energy" in words:  # machines that run tests have no sensor; the page that shows it has this stand-in
        words = set_option(words, "--energy", "command:python cpu_joules.py")
    match command:
        case "tune":
            words = set_option(words, "--time", "1s") if "--time" in words else words
            return set_option(set_option(words, "--trials", "1"), "--batch", "1")
        case "prune":
            if "--run" in words:
                walk.finish_runs([words[words.index("--run") + 1]])
                return set_option(words, "--epochs", "2")
            words = set_option(set_option([words[0], ARCH, *words[2:]], "--config", "train.yaml"), "--epochs", "2")
            if "--latency-target" not in words:
                return words
            # The tiny space's blocks have four channels inside.
            return set_option(set_option(words, "--latency-target", "90%"), "--multiple", "2")
        case "search" | "train":
            return set_option(words, "--config", f"{command}.yaml")
        case "sample" | "latency validate":
            return set_option(words, "-n", "5")
        case "run":
            return [{"demo": "small.yaml", "demo_int8": "small_int8.yaml"}.get(word, word) for word in words]
        case "report cross-device":  # tests/pipeline/test_cross_device_report.py times nets; here the runs are read
            walk.finish_runs([word for word in words[2:] if word.startswith("runs/") and word != "runs/cross"])
            return words if "--dry-run" in words else [*words, "--dry-run"]
        case "device start":
            return [*words, "--port", str(walk.server_port), "--device-tracker-port", str(walk.tunnel_port)]
    return words


def pruned_arch(space):
    """The net of the round that a pruning wrote this space for."""
    rounds = json.loads((space.parents[1] / "prune.json").read_text())["rounds"]
    return rounds[int(space.parent.name.rpartition("-")[2])]["arch"]


def run_line(line: CommandLine, walk: Walk):
    """Runs one command line of a page."""
    match line.words:
        case ["tvmfbnet", "tracker", *options]:
            words = tvmfbnet(*smaller(["tracker", *options], walk))
            walk.start(words, lambda: port_is_open("127.0.0.1", walk.port))
        case ["tvmfbnet", "run", *options]:  # 3: the target was missed or cannot be decided; the run itself went well
            printed = walk.run(tvmfbnet(*smaller(["run", *options], walk)), check=(0, 3))
            if "demo_int8" in options:
                check_fine_tuning(walk.folder / "runs/small_int8", printed)
        case ["tvmfbnet", "bench", *options] if "--energy" in options:
            check_energy(walk, walk.run(tvmfbnet(*smaller(["bench", *options, "--json"], walk))))
        case ["tvmfbnet", "tune", *options] if "--energy" in options:
            words = tvmfbnet(*smaller(["tune", *options, "--json"], walk))
            first, again = (json.loads(walk.run(words)) for _ in range(2))
            assert (first["energies_now"], again["energies_now"]) == (first["parts"], 0)
        case ["tvmfbnet", "tune", *options] if line.page.startswith("docs/results/"):  # pages of how-to tune
            walk.run(tvmfbnet(*smaller(["tune", *options], walk), "--dry-run"))
        case ["tvmfbnet", *options]:
            walk.run(tvmfbnet(*smaller(options, walk)))
        case ["torchrun", *options]:
            own = options.index("tvmfbnet") + 1
            shutil.rmtree(walk.folder / "runs", ignore_errors=True)
            walk.run([sys.executable, "-m", "torch.distributed.run", *options[:own], *smaller(options[own:], walk)])
        case ["tvmfbnet-run", *options]:
            walk.run(tvmfbnet("compile", ARCH, "--space", "tiny.yaml", "--target", "rpi5", "--out", "package"))
            walk.run([walk.runner(), *("0" if word == "7" else word for word in options)])
        case ["export", setting]:
            name, _, value = setting.partition("=")
            walk.environment[name] = value
        case ["python", "-m", "tvm.exec.rpc_server", *options]:
            serve_by_python(options, walk)
        case ["python", script, *options] if script.startswith("benchmarks/"):
            # They take minutes to hours: only that they start and have the options that are shown is seen here.
            shown = benchmark_help()[script]
            assert shown.returncode == 0, f"{script}: {shown.stderr[-2000:]}"
            options = {word for word in options if word.startswith("--")}
            assert options <= set(re.findall(r"--[a-z-]+", shown.stdout)), line.text
        case _:
            pytest.fail(f"{line.page} line {line.number} shows a command that no test runs: {line.text}")


def check_energy(walk, printed):
    """A net takes what its parts take together, told by the same source; ten watts are what a busy core takes here."""
    predicted = json.loads((walk.folder / "package/package.json").read_text())["predicted_energy"]
    timed = json.loads(printed)
    energy, cpu_mj = timed["energy"], 10 * timed["latency_ms"]
    assert energy["source"] == predicted["energy_source"] == "command:python cpu_joules.py"
    assert energy["idle_watts"] < 5 and energy["energy_mj"] < 3 * cpu_mj
    # Some rounds of tens of milliseconds, beside other work.
    assert 0.3 < predicted["energy_mj"] / energy["energy_mj"] < 3


def check_fine_tuning(run, printed):
    """The run's files say the same of its fine-tuning as it printed, and the package holds the net that was kept."""
    record = json.loads((run / "fine_tuning/fine_tuning.json").read_text())
    result, package = (json.loads((run / name).read_text()) for name in ("result.json", "package/package.json"))
    assert result["fine_tuning"] == package["fine_tuning"] == record and record["images"] == 12
    told = f"{record['accuracy']:.2%} after 2 epochs instead of {record['untuned_accuracy']:.2%}"
    assert told in " ".join(printed.replace("│", " ").split()) and told in (run / "report/index.html").read_text()
    is_tuned = (run / "package/net.onnx").read_bytes() == (run / "fine_tuning/net.onnx").read_bytes()
    assert is_tuned == record["kept"]


@functools.cache
def benchmark_help():
    """What ``--help`` of every benchmark that a page shows prints, by the script's name there."""
    commands = [line.words[:2] for page in pages() for line in shown_on(page)]
    scripts = sorted({words[1] for words in commands if words[0] == "python" and words[1].startswith("benchmarks/")})
    run = "import runpy\nsys.argv = [task, '--help']\nsys.path[0] = os.path.dirname(task)\n"
    run += "runpy.run_path(task, run_name='__main__')\n"
    return dict(zip(scripts, run_forked(PRELOAD, run, [str(ROOT / script) for script in scripts]), strict=True))


def serve_by_python(words, walk):
    """TVM's own server registers with the page's tracker."""
    port = str(walk.server_port)
    words = [word.replace("9190", str(walk.port)).replace("9090", port) for word in words]
    words = set_option(words, "--port-end", str(walk.server_port + 1))

    def registered():
        return any(server["key"] == "apple_cpu" for server in query_tracker("127.0.0.1", walk.port).servers)

    walk.start([sys.executable, "-m", "tvm.exec.rpc_server", *words], registered)


def shown_on(page):
    """What a page shows that can run here, and that no other page runs for it."""
    lines = [line for line in command_lines(page) if not line.text.startswith(tuple(SKIPPED))]
    return [line for line in lines if (page, line.text) not in SHOWN_TWICE]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The measurements of the small space on this machine, as after docs/how-to/tune.md."""
    walk = Walk(tmp_path_factory.mktemp("measured"))
    quickly = ("--space", "tiny.yaml", "--trials", "1", "--batch", "1")
    walk.run(tvmfbnet("tune", "--target", "host", *quickly))
    walk.run(tvmfbnet("tune", "--target", "host", "--dtype", "int8", *quickly))
    # As many trials as another target learns from.
    walk.run(tvmfbnet("tune", "--target", "rpi4", "--space", "tiny.yaml", "--blocks", "k3_e1", "--trials", "60"))
    return walk.folder / "tuning_logs"


@pytest.mark.rpc
@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in pages() if shown_on(page)])
def test_every_command_line_of_a_page_runs(page, tmp_path, request):
    lines = shown_on(page)
    reaches_a_board = any("--ssh" in line.words for line in lines)
    if reaches_a_board and not has_sshd():
        pytest.skip("sshd or ssh is missing; scripts/setup --emulation installs them")
    (tmp_path / "ssh").mkdir()
    (tmp_path / "walk").mkdir()
    if reaches_a_board:
        with loopback_sshd(tmp_path / "ssh") as options:
            walk_page(lines, started_walk(page, tmp_path / "walk", request, options))
        return
    walk_page(lines, started_walk(page, tmp_path / "walk", request))


def started_walk(page, folder, request, ssh_options=()):
    """The page's folder, with what its reader has measured before."""
    walk = Walk(folder, ssh_options)
    walk.write_shown_files(page)
    for target in MEASURED.get(page, ()):
        shutil.copytree(request.getfixturevalue("measured") / target, walk.folder / "tuning_logs" / target)
    if any(line.words[:2] in (["tvmfbnet", "tune"], ["tvmfbnet", "run"]) for line in shown_on(page)):
        # All targets are this machine, and the space is the same: `measured` has lowered its blocks for them.
        lowered = request.getfixturevalue("measured") / "host" / "lowered"
        for target in ("host", *BOARDS):
            shutil.copytree(lowered, walk.folder / "tuning_logs" / target / "lowered", dirs_exist_ok=True)
    if page in HAVE_A_TABLE:
        walk.run(tvmfbnet("latency", "export", "--target", "host", "--out", "pixel3.csv"))
    return walk


def walk_page(lines, walk):
    try:
        for line in lines:
            run_line(line, walk)
    finally:
        walk.stop()


def test_no_page_is_left_out():
    on_disk = {*ROOT.glob("*.md"), *ROOT.glob("tuning_logs/*.md"), *(ROOT / "docs").rglob("*.md")}
    # The changelog shows no command line.
    assert not command_lines("CHANGELOG.md")
    assert {str(page.relative_to(ROOT)) for page in on_disk} - {"CHANGELOG.md"} == set(pages())
    assert {*MEASURED, *HAVE_A_TABLE} <= {page for page in pages() if shown_on(page)}


def test_what_is_skipped_is_still_shown():
    shown = [line.text for page in pages() for line in command_lines(page)]
    for skipped, reason in SKIPPED.items():
        assert any(text.startswith(skipped) for text in shown), f"{skipped} is no longer shown ({reason})"


def test_what_another_page_runs_is_shown_on_both():
    for (page, text), other in SHOWN_TWICE.items():
        assert text in [line.text for line in command_lines(page)]
        assert text in [line.text for line in shown_on(other)]


def test_a_command_that_nothing_knows_is_told(tmp_path):
    with pytest.raises(pytest.fail.Exception, match="no test runs"):
        run_line(CommandLine("docs/x.md", 3, "cmake --preset host"), None)


def help_texts(command, path=()):
    """The help text of each command, by its words."""
    for name, child in getattr(command, "commands", {}).items():
        yield from help_texts(child, (*path, name))
    if not getattr(command, "commands", {}):
        yield " ".join(path), command.help or ""


def parse(words):
    """Has the command line read its words without doing anything; a usage error where they do not fit."""
    command, context = typer.main.get_command(app), None
    context = command.make_context("tvmfbnet", list(words))
    while getattr(command, "commands", None):
        words_left = [*context._protected_args, *context.args]
        name, command, words_left = command.resolve_command(context, words_left)
        context = command.make_context(name, words_left, parent=context)


@pytest.mark.parametrize(("name", "text"), sorted(help_texts(typer.main.get_command(app))))
def test_every_command_has_an_example_that_its_options_allow(name, text):
    example = re.search(r"Example: tvmfbnet (.+?)\.?\s*(?:$|\n\n)", text, re.S)
    assert example is not None, f"tvmfbnet {name} has no example"
    words = example[1].split()
    assert " ".join(words).startswith(name)
    parse(words)


def test_inline_commands_are_commands():
    for page in pages():
        for text in inline_commands(page):
            words = ["5" if word == "N" else word for word in text.replace("'", "").split()]
            if len(words) > 2 and "..." not in words:
                parse(words)
