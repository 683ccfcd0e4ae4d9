"""README and docs use the field's words: none that the glossary retires."""

import re

import pytest
from documented import ROOT

# Folders and files whose words are checked.
CHECKED = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "docs")
# The glossary names the retired words.
EXEMPT = {"docs/glossary.md"}
# A rate is "images/s" or "one per layer", not "images a second" or "one a layer".
RATE = (
    r"(?:one|two|one (?:folder|file|spelling|candidate|row)|trials|candidates|images|kernels|values|blocks?)\s+an?\s+"
    r"(?:task|second|round|layer|line|kernel|side|channel|image|block|step|part|net|class|arch)"
)


def retired_words():
    """The words in the first column of the glossary's last table."""
    section = (ROOT / "docs/glossary.md").read_text().split("## Retired words")[1]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    return [word.strip() for row in rows[2:] for word in row.split(",")]


def checked_files():
    places = [ROOT / place for place in CHECKED]
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*.md"))]
    return sorted({str(file.relative_to(ROOT)) for file in files} - EXEMPT)


def prose(text):
    """The text without its code: fenced and indented blocks, and code spans."""
    text = re.sub(r"(?ms)^```.*?^```", "", text)
    text = re.sub(r"(?m)^(?: {4}|\t).*$", "", text)
    return re.sub(r"``[^`]*``|`[^`]*`", "`code`", text)


def retired_in(text):
    """The retired words in a text's prose, as they are spelled there."""
    words = "|".join([RATE, *(r"\s+".join(map(re.escape, word.split())) for word in retired_words())])
    return [match[0] for match in re.finditer(rf"(?i)(?<!\w)(?:{words})(?!\w)", prose(text))]


@pytest.mark.parametrize("file", checked_files())
def test_no_retired_word_is_used(file):
    assert not retired_in((ROOT / file).read_text())


def test_a_retired_word_would_be_found():
    assert retired_in("It is right on 9 of 10 Pictures.") == ["is right on", "Pictures"]
    assert retired_in("Trials a second, and\nfour values a channel.") == ["Trials a second", "values a channel"]
    assert not retired_in("`timing.visits` and\n\n    visits.jsonl\n\n```\npictures\n```\n")
