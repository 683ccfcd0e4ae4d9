"""The command lines that README and docs show: indented code lines, examples in help texts, inline code."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "SECURITY.md", "CONTRIBUTING.md", "tuning_logs/README.md")
PROGRAMS = ("tvmfbnet", "tvmfbnet-run", "python", "torchrun", "git", "ssh", "adb", "cmake", "pip", "export")


@dataclass(frozen=True)
class CommandLine:
    """One command line of a page: its words (environment settings first), and the line's text without its comment."""

    page: str
    number: int
    text: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text, comments=True)

    @property
    def program(self) -> str:
        return next(word for word in self.words if "=" not in word)


def pages() -> list[str]:
    return [*PAGES, *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))]


def command_lines(page: str) -> list[CommandLine]:
    """All command lines in indented or fenced code of one page, continued lines joined."""
    lines, fenced, joined, start = [], False, "", 0
    for number, line in enumerate((ROOT / page).read_text().splitlines(), start=1):
        if line.startswith("```"):
            fenced = not fenced
            continue
        if not (joined or fenced or line.startswith("    ")):
            continue
        start = start if joined else number
        joined += line.strip()
        if joined.endswith("\\"):
            joined = joined[:-1]
            continue
        words = shlex.split(joined, comments=True) if is_command(joined) else []
        if words:
            lines.append(CommandLine(page, start, shlex.join(words)))
        joined = ""
    return lines


def is_command(text: str) -> bool:
    words = [word for word in text.split() if not re.fullmatch(r"[A-Z_]+=\S+", word)]
    return bool(words) and (words[0] in PROGRAMS or words[0].startswith("scripts/"))


def inline_commands(page: str) -> list[str]:
    """Inline code that starts with ``tvmfbnet`` and names a command."""
    text = (ROOT / page).read_text()
    return [match[1] for match in re.finditer(r"`tvmfbnet ([^`]+)`", text)]
