"""The files that a page of the docs shows: code whose fence has a title."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def shown_files(page):
    """The content of each file that a page shows, by name."""
    text = (ROOT / page).read_text()
    return dict(re.findall(r'(?ms)^```\w+ title="([\w.]+)"\n(.*?)^```$', text))
