"""Several programs after one start: a process that has the imports forks for each of them.

Each runs in a process of its own, as from a shell: its own modules, folder, environment, output and exit code. One that
is started to be watched, interrupted or killed leads a session of its own, as in a terminal.
"""

import atexit
import functools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# What most commands and benchmarks take seconds to load: they fork from a process that has loaded it.
PRELOAD = """
import os, runpy, sys
import onnx.utils, onnxruntime.quantization, scipy.optimize, scipy.stats, timm.utils, torch, torch._dynamo, torch.onnx
import tvm, tvm.relax.frontend.onnx, xgboost
import tvmfbnet.autotune.engine, tvmfbnet.cli.main, tvmfbnet.deploy.bench, tvmfbnet.deploy.parity
import tvmfbnet.latency.regressor, tvmfbnet.pipeline.run, tvmfbnet.pipeline.tuning, tvmfbnet.profiling.parts
import tvmfbnet.quantisation.post_training, tvmfbnet.report.page, tvmfbnet.search.search, tvmfbnet.training.train
from tvmfbnet.compiler.intrinsics import load_tensor_intrinsics
load_tensor_intrinsics(of_gpus=False)
"""
UNHEARD = (os.devnull, os.devnull)
COMMAND = """
if task[0] == "-c":
    exec(task[1], {"__name__": "__main__"})
else:
    sys.argv = ["-m", *task]
    runpy.run_module("tvmfbnet", run_name="__main__", alter_sys=True)
"""

# Reads a JSON line for each program and answers with another once it has ended.
_PROGRAM = """
import gc, json, os, signal, sys, tempfile, traceback
preload, run = sys.argv[1:]
shared = {"__name__": "forked"}
exec(preload, shared)
gc.collect()
gc.freeze()  # so that forks share the memory of what is loaded
asked, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
nothing = os.open(os.devnull, os.O_RDONLY)
os.dup2(nothing, 0)


def begin(task, folder, environment, out, session):
    child = os.fork()
    if child:
        return child
    code = 0
    try:
        if session:
            os.setsid()
            signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs the tests may be deaf to Ctrl-C
        for number, file in enumerate(out, start=1):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout = open(1, "w", closefd=False)
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
        if folder is not None:
            os.chdir(folder)
        if environment is not None:
            os.environ.clear()
            os.environ.update(environment)
        exec(run, {**shared, "task": task})
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


for line in iter(asked.readline, ""):
    what, *given = json.loads(line)
    if what == "start":
        answer = begin(*given, True)
    elif what == "poll":
        ended, status = os.waitpid(given[0], os.WNOHANG)
        answer = os.waitstatus_to_exitcode(status) if ended else None
    else:
        files = [tempfile.NamedTemporaryFile("r") for _ in range(2)]
        child = begin(*given, [file.name for file in files], False)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        answer = [status, *(file.read() for file in files)]
    print(json.dumps(answer), file=answers, flush=True)
"""


@dataclass(frozen=True)
class Ended:
    """A program that has ended."""

    returncode: int
    stdout: str
    stderr: str


class Started:
    """A program under way, the leader of a session of its own; ``pid`` and the methods are those of a ``Popen``."""

    def __init__(self, forking, pid, stdout=None, stderr=None):
        self._forking, self.pid, self.returncode = forking, pid, None
        self.stdout, self.stderr = stdout, stderr

    def poll(self):
        """Its exit code, or minus the number of the signal that killed it; None while it runs."""
        if self.returncode is None:
            self.returncode = self._forking.ask("poll", self.pid)
        return self.returncode

    def send_signal(self, number):
        """Signals it, and none of its children."""
        os.kill(self.pid, number)

    def wait(self, seconds=900):
        """The same, once it has ended; TimeoutError if it runs for longer."""
        deadline = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"process {self.pid} still runs after {seconds} s")
            time.sleep(0.01)
        return self.returncode


class Forking:
    """The process that has run ``preload``, and forks to run the code ``run`` on a ``task``."""

    def __init__(self, preload, run):
        words = [sys.executable, "-c", _PROGRAM, preload, run]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(words, **pipes, text=True, process_group=0)

    def ask(self, *words, seconds=60):
        """What the process answers; it is killed with its forks if that takes too long."""
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            os.killpg(self._process.pid, signal.SIGKILL)
            raise TimeoutError(f"{words} still runs after {seconds} s")
        answer = self._process.stdout.readline()
        assert answer, f"the process with the imports ended with {self._process.wait()}"
        return json.loads(answer)

    def run(self, task, folder=None, environment=None, seconds=900):
        """Runs the code to its end, in a folder and an environment if they are given."""
        return Ended(*self.ask("run", task, None if folder is None else str(folder), environment, seconds=seconds))

    def start(self, task, folder=None, environment=None, out=None):
        """Starts the code in a session of its own; ``out``: files for stdout and stderr, else they can be read."""
        folder = None if folder is None else str(folder)
        if out is not None:
            return Started(self, self.ask("start", task, folder, environment, out))
        with tempfile.TemporaryDirectory() as pipes:
            paths = [f"{pipes}/{name}" for name in ("stdout", "stderr")]
            for path in paths:
                os.mkfifo(path)
            pid = self.ask("start", task, folder, environment, paths)
            return Started(self, pid, *map(open, paths))  # open once the program has opened its ends, too

    def stop(self):
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


@contextmanager
def forking(preload, run):
    """A :class:`Forking` that ends with the block."""
    process = Forking(preload, run)
    try:
        yield process
    finally:
        process.stop()


def run_forked(preload, run, tasks, seconds=900):
    """Runs code once for each task, as ``task``, in forks of a process that ran ``preload``."""
    with forking(preload, run) as process:
        return [process.run(task, seconds=seconds) for task in tasks]


@functools.cache
def _commands():
    """The process that commands of this one's tests fork from; it ends with this one."""
    process = Forking(PRELOAD, COMMAND)
    atexit.register(process.stop)
    return process


def run_command(words, folder=None, environment=None, seconds=900):
    """Runs a command of ours to its end, in this process's folder and environment unless others are given.

    It starts with all that it may load: not for tests of what is loaded, and when. ``-c`` and a program run that.
    """
    return _commands().run(list(map(str, words)), folder or Path.cwd(), environment or dict(os.environ), seconds)


def start_command(words, folder=None, environment=None, out=None):
    """Starts a command of ours that is to be watched, interrupted or killed: a :class:`Started`; else as above."""
    return _commands().start(list(map(str, words)), str(folder or Path.cwd()), environment or dict(os.environ), out)
