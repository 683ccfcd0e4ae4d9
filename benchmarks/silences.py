"""Runs a command and prints the longest silence of each of its steps: how long nothing new was seen on stderr.

    python benchmarks/silences.py tune --target host --space fbnet_mini --quality quick
    python benchmarks/silences.py --terminal run demo

With ``--terminal`` stderr is a pseudo-terminal, where a live line counts as long as it changes; else it is a pipe.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time

CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
STEP = re.compile(r"^\W*([A-Za-z][^:0-9━╸]*)")


def main() -> None:
    words = sys.argv[1:]
    terminal = words[:1] == ["--terminal"]
    reader, writer = pty.openpty() if terminal else os.pipe()
    began = last = time.monotonic()
    command = [sys.executable, "-m", "tvmfbnet.cli.main", *words[terminal:]]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=writer, start_new_session=True)
    os.close(writer)
    step, seen, longest = "starting", "", dict[str, float]()
    while True:
        try:
            data = os.read(reader, 65536)
        except OSError:  # how a pseudo-terminal ends
            data = b""
        text = CODES.sub("", data.decode(errors="replace"))
        now = time.monotonic()
        if data and text.strip() == seen:
            continue  # the same line again tells nothing
        longest[step] = max(longest.get(step, 0.0), now - last)
        last, seen = now, text.strip()
        if not data:
            break
        steps = [match[1].strip(" .(") for line in re.split(r"[\r\n]+", text) if (match := STEP.match(line))]
        step = steps[-1][:60] if steps else step
    code = process.wait()
    for name, seconds in sorted(longest.items(), key=lambda item: -item[1]):
        print(f"{seconds:6.1f} s  {name}")
    print(f"longest silence {max(longest.values()):.1f} s in {time.monotonic() - began:.0f} s; exit code {code}")


if __name__ == "__main__":
    main()
