"""Scripts for shells that are not ours: the login shell of a device may be fish or csh, and its profile may print.

A script is sent as one word that every shell reads alike, and run by ``sh``. What it prints is put between marks, so
that greetings before it and farewells after it are told apart from the answer.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

# Bytes that mean the same inside single quotes of sh, fish and csh, inside double quotes of sh, and to printf.
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 _-+.,:;=@/|&<>(){}[]*?~#^")


def for_any_shell(script: str) -> str:
    """A command line that has ``sh`` run a script, whatever shell reads the line: sh, bash, zsh, fish, csh, mksh.

    Quotes, backslashes, dollars, exclamation marks and line ends travel as octal numbers.
    """
    data = script.encode("utf-8", "surrogateescape")
    text = "".join(chr(byte) if byte in _PLAIN else f"\\{byte:03o}" for byte in data)
    return f"""sh -c 'eval "$(printf "{text}")"'"""


@dataclass(frozen=True)
class MarkedScript:
    """A script whose output, on both streams, is put between two marks.

    Args:
        script: what runs, in a shell of its own; its exit code is kept.
        mark: occurs nowhere else.
    """

    script: str
    mark: str

    @classmethod
    def of(cls, script: str) -> MarkedScript:
        """With a mark of its own."""
        return cls(script, f"tvmfbnet-{secrets.token_hex(8)}")

    @property
    def text(self) -> str:
        """The script to send."""
        return f"{self._print('B')}\n(\n{self.script}\n)\ncode=$?\n{self._print('E')}\nexit $code"

    def _print(self, which: str) -> str:
        return f"printf {self.mark}{which}; printf {self.mark}{which} >&2"

    def inside(self, output: str) -> str | None:
        """What a stream held between the marks; None when the script never began."""
        _, begin, rest = output.partition(f"{self.mark}B")
        return rest.partition(f"{self.mark}E")[0] if begin else None
