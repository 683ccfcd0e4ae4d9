"""Several short programs after one start: a process that has the imports forks for each of them.

Each runs in a process of its own, as from a shell: its own modules, environment, output and exit code.
"""

import json
import subprocess
import sys
from dataclasses import dataclass

_PROGRAM = """
import json, os, sys, tempfile, traceback
preload, run, tasks = sys.argv[1], sys.argv[2], json.loads(sys.stdin.read())
shared = {"__name__": "forked"}
exec(preload, shared)
nothing = os.open(os.devnull, os.O_RDONLY)
os.dup2(nothing, 0)
told = []
for task in tasks:
    files = [tempfile.TemporaryFile("w+") for _ in range(2)]
    child = os.fork()
    if not child:
        for number, file in enumerate(files, start=1):
            os.dup2(file.fileno(), number)
        code = 0
        try:
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
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for file in files:
        file.seek(0)
    told.append([status, *(file.read() for file in files)])
print(json.dumps(told))
"""


@dataclass(frozen=True)
class Ended:
    """A program that has ended."""

    returncode: int
    stdout: str
    stderr: str


def run_forked(preload, run, tasks, seconds=900):
    """Runs code once for each task, as ``task``, in forks of a process that ran ``preload``."""
    words = [sys.executable, "-c", _PROGRAM, preload, run]
    done = subprocess.run(words, input=json.dumps(tasks), capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stderr
    return [Ended(*item) for item in json.loads(done.stdout)]


_SERVER = """
import json, os, sys, tempfile, traceback
orders, answers = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
os.dup2(2, 1)
exec(sys.argv[1])
from tvmfbnet.cli.main import main
for line in orders:
    words, folder, environment = json.loads(line)
    files = [tempfile.TemporaryFile("w+") for _ in range(2)]
    child = os.fork()
    if not child:
        os.setsid()
        orders.close()
        for number, file in enumerate(files, start=1):
            os.dup2(file.fileno(), number)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        sys.argv = ["tvmfbnet", *words]
        code = 0
        try:
            main(words)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # as a command ends that has loaded TVM
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for file in files:
        file.seek(0)
    answers.write(json.dumps([status, *(file.read() for file in files)]) + "\\n")
    answers.flush()
"""
# What commands take seconds to load; the variable is what a command sets before.
HEAVY = """
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
import torch, tvm, xgboost
import tvmfbnet.deploy.bench, tvmfbnet.pipeline.run, tvmfbnet.pipeline.tuning, tvmfbnet.search.search
import tvmfbnet.training.train
"""


class CommandServer:
    """Runs ``tvmfbnet`` commands one after another, each in a fork of a process that has loaded what is heavy.

    A command has its own folder, environment, session and exit code, as from a shell.
    """

    def __init__(self):
        words = [sys.executable, "-c", _SERVER, HEAVY]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, words, folder, environment):
        """Runs the words behind ``tvmfbnet`` to their end."""
        self._process.stdin.write(json.dumps([[str(word) for word in words], str(folder), dict(environment)]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the process that forks ended with {self._process.poll()}"
        return Ended(*json.loads(answer))

    def close(self):
        """Ends the process, which waits for orders."""
        self._process.kill()  # it has nothing to end, and taking TVM apart takes seconds
        self._process.wait(60)
