"""CONTRIBUTING names files, folders and functions that there are, and no addition touches more than three files."""

import re

from documented import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
SPAN = re.compile(r"`([^`]+)`")
# A file and, in brackets behind it, the names in it.
NAMED = re.compile(r"`([\w./-]+/[\w.-]+)` \(([^)]*)\)")


def is_path(text):
    """Code spans with a folder or an ending, but for settings, commands and placeholders."""
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)+|\w+\.(py|md|ini|toml|yml)", text) is not None


def is_there(text):
    """As given, or a placeholder such as NAME.yaml in a folder with such files."""
    path = ROOT / text
    return path.exists() or ("NAME" in path.stem and any(path.parent.glob(f"*{path.suffix}")))


def rows(heading):
    """The cells of the rows of a section's table."""
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"(?m)^\|.*\|$", section)[2:]]


def test_every_path_exists():
    paths = [text for text in SPAN.findall(TEXT) if is_path(text)]
    assert len(paths) > 40
    assert not [path for path in paths if not is_there(path)]


def test_every_name_is_in_the_file_that_is_said_to_have_it():
    named = [(file, name) for file, names in NAMED.findall(TEXT) for name in SPAN.findall(names)]
    assert len(named) > 10
    assert not [(file, name) for file, name in named if not has(ROOT / file, name)]
    assert not has(ROOT / "tvmfbnet/space/NAME.py", "nobody_called_it_so")


def has(path, name):
    """Whether a file has a name in it; for a placeholder NAME.py, any file of its folder."""
    files = path.parent.glob(f"*{path.suffix}") if path.stem == "NAME" else [path]
    return any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", file.read_text()) for file in files)


def test_no_addition_touches_more_than_three_files():
    touched = {
        what: {text for text in SPAN.findall(files) if is_path(text)}
        for what, files, _ in rows("To add ..., touch these files")
    }
    assert touched and not {what: files for what, files in touched.items() if len(files) > 3}


def test_the_ten_changes_name_their_files():
    changes = rows("Ten changes that a stranger makes")
    assert len(changes) == 10
    assert not [change for change, files in changes if not any(map(is_path, SPAN.findall(files)))]


def test_every_package_is_listed():
    listed = {path for row in rows("Where things are") for path in SPAN.findall(row[0])}
    packages = {f"tvmfbnet/{file.parent.name}" for file in (ROOT / "tvmfbnet").glob("*/__init__.py")}
    assert not packages - listed
