"""What native libraries print never reaches stdout, and what was printed before still does."""

import ctypes
import os

import psutil
import pytest

from tvmfbnet.native_output import native_output_discarded

C = ctypes.CDLL(None)


def test_what_c_prints_in_the_block_is_discarded_and_nothing_else(capfd):
    C.printf(b"before\n")
    with native_output_discarded():
        C.printf(b"inside\n")
        C.puts(b"inside")
    C.printf(b"after\n")
    C.fflush(None)
    assert capfd.readouterr().out.split() == ["before", "after"]


def test_an_error_in_the_block_restores_stdout(capfd):
    open_files = psutil.Process().num_fds()
    with pytest.raises(RuntimeError), native_output_discarded():
        raise RuntimeError
    assert psutil.Process().num_fds() == open_files
    C.puts(b"after")
    C.fflush(None)
    assert capfd.readouterr().out == "after\n"


def test_a_process_without_stdout_is_no_failure(monkeypatch):
    def fails(descriptor):
        raise OSError

    monkeypatch.setattr(os, "dup", fails)
    with native_output_discarded():
        pass
