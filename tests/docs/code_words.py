"""What the code says: its prose (comments, docstrings, messages, names of tests) and the names in it."""

import ast
import io
import keyword
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from documented import ROOT

FOLDERS = ("tvmfbnet", "benchmarks", "tests", "scripts")


@dataclass(frozen=True)
class Text:
    """A piece of prose or a name, and the line where it begins."""

    line: int
    text: str


def python_files() -> list[str]:
    """The Python files of the folders, scripts without an ending included."""
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*") if file.is_file()]
    return sorted(str(file.relative_to(ROOT)) for file in files if _is_python(file))


def _is_python(file: Path) -> bool:
    if file.suffix == "" and file.parent == ROOT / "scripts":
        return "python" in file.read_text().split("\n", 1)[0]
    return file.suffix == ".py" and "__pycache__" not in file.parts


def other_files() -> list[str]:
    """YAML, C++, CMake and shell files, whose comments and texts are checked."""
    files = [file for folder in ("tvmfbnet", "targets", "device", "scripts") for file in (ROOT / folder).rglob("*")]
    kinds = {".yaml", ".cc", ".h", ".cmake", ""}
    kept = [file for file in files if file.is_file() and file.suffix in kinds and not _is_python(file)]
    return sorted(str(file.relative_to(ROOT)) for file in kept if "__pycache__" not in file.parts)


def comments_of(source: str) -> str:
    """Comments that begin with ``#`` or ``//``, strings with blanks, and descriptions."""
    return "\n".join(re.findall(r"(?://|#)[^\n]*|\"[^\"\n]* [^\"\n]*\"|description:[^\n]*", source))


@cache
def source_of(file: str) -> str:
    """The text of a file, by its path in the repository."""
    return (ROOT / file).read_text()


@cache
def _tokens(source: str) -> list[tokenize.TokenInfo]:
    return list(tokenize.generate_tokens(io.StringIO(source).readline))


def prose_of(source: str) -> Iterator[Text]:
    """Comments, strings of several words without the fields of f-strings, and the names of tests with blanks.

    Comments in a row are one text, so that a term that is broken over two lines is seen.
    """
    comment: list[tokenize.TokenInfo] = []
    for token in _tokens(source):
        if token.type == tokenize.COMMENT:
            comment.append(token)
        elif token.type not in (tokenize.NL, tokenize.INDENT, tokenize.DEDENT):
            if comment:
                yield Text(comment[0].start[0], "\n".join(part.string.lstrip("# ") for part in comment))
                comment = []
            if token.type == tokenize.STRING:
                text = _without_fields(token.string)
                if re.search(r"\w\s+\w", text):
                    yield Text(token.start[0], text)
            elif token.type == _FSTRING_MIDDLE:
                yield Text(token.start[0], token.string)
            elif token.type == tokenize.NAME and token.string.startswith("test_"):
                yield Text(token.start[0], token.string.replace("_", " "))


# From Python 3.12 on an f-string is several tokens, and its fields are code; before, it is one.
_FSTRING_MIDDLE = getattr(tokenize, "FSTRING_MIDDLE", -1)


def _without_fields(literal: str) -> str:
    prefix = literal[: literal.index(literal[-1])].lower()
    return re.sub(r"\{[^{}]*\}", "{}", literal) if "f" in prefix else literal


def names_of(source: str) -> Iterator[Text]:
    """Every name that the code uses or defines, but those of tests, which are prose."""
    for token in _tokens(source):
        if token.type == tokenize.NAME and not keyword.iskeyword(token.string) and token.string[:5] != "test_":
            yield Text(token.start[0], token.string)


def words_of(name: str) -> list[str]:
    """``start_alike`` and ``StartAlike`` are two words each."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def variables_of(source: str) -> Iterator[Text]:
    """The names that are assigned: variables, loop variables, parameters, fields, names in patterns."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield Text(node.lineno, name)
            case ast.MatchStar(name=str(name)) | ast.MatchAs(name=str(name)) | ast.ExceptHandler(name=str(name)):
                yield Text(node.lineno, name)
