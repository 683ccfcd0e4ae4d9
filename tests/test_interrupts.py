"""A Ctrl-C promises: a line at once, an end in time whatever hangs, a checkpoint where one is worth it, code 130."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from tvmfbnet.interrupts import undisturbed


def start(code):
    """A command whose work is ``code``, run as main() runs commands; prints ``ready`` when it is under way."""
    program = (
        "import sys, time, threading\n"
        "from tvmfbnet import interrupts\n"
        f"def work():\n{textwrap.indent(textwrap.dedent(code), '    ')}\n"
        "with interrupts.handled() as handler:\n"
        "    try:\n        work()\n"
        "    except KeyboardInterrupt:\n        handler.end()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    return process


def end(process):
    began = time.monotonic()
    code = process.wait(60)
    return code, time.monotonic() - began, process.stdout.read(), process.stderr.read()


def test_a_ctrl_c_ends_at_once_what_saves_nothing_and_promises_nothing():
    process = start("print('ready', flush=True); time.sleep(60)")
    process.send_signal(signal.SIGINT)
    code, seconds, _, said = end(process)
    assert (code, said) == (130, "interrupted: stopping (up to 3 s)\n") and seconds < 3


def test_what_hangs_in_a_library_ends_within_the_time_that_the_line_names():
    # Holding SIGINT back by hand stands for a long call: the main thread does not hear of it.
    process = start("""
        interrupts.promise_resume()
        with interrupts.undisturbed():
            print('ready', flush=True)
            threading.Event().wait(60)
    """)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    line = process.stderr.readline()
    assert line == "interrupted: stopping (up to 3 s); run the same command to resume\n"
    assert time.monotonic() - began < 1.5
    code, _, _, said = end(process)
    assert (code, said) == (130, "") and 1.5 < time.monotonic() - began < 3.5


def test_a_second_ctrl_c_ends_at_once():
    process = start("""
        with interrupts.undisturbed():
            print('ready', flush=True)
            threading.Event().wait(60)
    """)
    process.send_signal(signal.SIGINT)
    process.stderr.readline()
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130 and time.monotonic() - began < 1


STEPS = """
    with interrupts.saved_steps("the checkpoint"{saves}) as steps:
        for number in range(1000):
            with steps.timed("step"):
                time.sleep(0.2)
            if number == 1:
                print("ready", flush=True)
            if steps.interrupted:
                with steps.timed("save"):
                    print("saved", number, flush=True)
            steps.end_if_interrupted()
"""


def test_steps_are_saved_before_a_ctrl_c_ends_them():
    process = start(STEPS.format(saves=""))
    process.send_signal(signal.SIGINT)
    code, _, out, said = end(process)
    assert code == 130 and re.fullmatch(r"saved \d+\n", out)
    assert re.fullmatch(r"interrupted: stopping \(up to [456789] s\), saving the checkpoint first\n", said)


def test_steps_that_are_not_one_processs_alone_to_save_just_end():
    process = start(STEPS.format(saves=", saves=False"))
    process.send_signal(signal.SIGINT)
    code, _, out, said = end(process)
    assert (code, out, said) == (130, "", "interrupted: stopping (up to 3 s)\n")


def test_without_a_command_a_ctrl_c_waits_for_what_must_be_done_whole():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    try:
        _interrupted_while_undisturbed()
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupted_while_undisturbed():
    done = []
    with pytest.raises(KeyboardInterrupt), undisturbed():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        done.append(True)
    assert done and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_no_progress_is_reported_after_the_line():
    process = start("""
        from tvmfbnet.cli import terminal
        from tvmfbnet.progress import step
        terminal.SILENCE = 0.02
        with terminal.shown(), step("counting"), interrupts.undisturbed():
            time.sleep(0.3)
            print('ready', flush=True)
            threading.Event().wait(60)
    """)
    process.send_signal(signal.SIGINT)
    said = end(process)[3].splitlines()
    assert said.count("counting: (0 s)") > 2 and said[-1].startswith("interrupted: stopping")
