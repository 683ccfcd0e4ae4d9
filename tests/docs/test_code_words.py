"""Code uses the field's words, too: in comments, docstrings, messages and names, and names say what they hold."""

import re

import pytest
from code_words import comments_of, names_of, other_files, prose_of, python_files, source_of, variables_of, words_of
from test_words import retired_in, retired_words

# Names of variables that say nothing about what they hold.
FILLERS = {"found", "some", "rest", "held", "known"}
# Words that no name contains: the glossary's single words, and those below, which are good English in a sentence.
RETIRED = {word: "see the glossary" for word in retired_words() if " " not in word} | {
    "lesson": "transfer",
    "expert": "ensemble",
    "strike": "max_crashes",
    "renews": "recalibrates",
    "remember": "save",
    "remembered": "saved",
    "recall": "load",
    "reach": "connect",
    "reached": "connected",
    "renew": "recalibrate",
}
# Whole names.
RETIRED_NAMES = {
    "right": "correct",
    "late": "expired, timed_out",
    "Late": "WorkerTimeoutError",
    "Gone": "WorkerDiedError",
    "start_alike": "shared_initialisation",
    "rest_seconds": "cooldown",
}
# Names that belong to a file format or to another library.
EXEMPT = {
    "visits": "field of `timing` in target files",
    "rest_seconds": "field of `timing` in target files",
    "pace": "field of the journal's records",
    "price": "field of search checkpoints",
    "right": "field of training checkpoints; an operand's side",
    "right_children": "field of xgboost's models",
    "post_order_visit": "TVM's function",
}
# Methods of TVM's visitors.
VISITOR = re.compile(r"visit_\w+_|visit_expr\w*")
# Fields with such a name that a format has.
FIELDS = {("tvmfbnet/profiling/doctor.py", "found"): "key of `targets check --json`"}
# Files about the words themselves.
ABOUT_WORDS = {"tests/docs/test_words.py", "tests/docs/test_code_words.py"}

FILES = [file for file in python_files() if file not in ABOUT_WORDS]


def retired_names(source):
    """Names with a retired word, each with its line and what to write instead."""
    for name in names_of(source):
        if name.text in EXEMPT or VISITOR.fullmatch(name.text):
            continue
        instead = RETIRED_NAMES.get(name.text) or next(
            (RETIRED[word] for word in words_of(name.text) if word in RETIRED), None
        )
        if instead:
            yield f"{name.line}: {name.text} ({instead})"


def fillers(source):
    return [f"{variable.line}: {variable.text}" for variable in variables_of(source) if variable.text in FILLERS]


def retired_prose(source):
    for text in prose_of(source):
        # Lines of docstrings are indented, and no code; names of fields and keys of YAML in a string are no prose.
        flush = re.sub(rf"(?m)^\s*(?:(?:{'|'.join(EXEMPT)}):)?", "", text.text)
        for word in retired_in(re.sub(r"\w+: *(?=[\d{\[])", "", flush)):
            yield f"{text.line}: {word}"


@pytest.mark.parametrize("check", [retired_prose, retired_names, fillers])
def test_code_uses_the_fields_words(check):
    breaches = [f"{file}:{told}" for file in FILES for told in check(source_of(file))]
    exempt = [(file, field) for file, field in FIELDS if check is fillers]
    assert not [
        breach
        for breach in breaches
        if not any(breach.startswith(f"{file}:") and breach.endswith(f" {field}") for file, field in exempt)
    ]


def test_comments_of_other_languages_use_the_fields_words():
    assert len(other_files()) > 30
    told = {file: retired_in(comments_of(source_of(file))) for file in other_files()}
    assert not {file: words for file, words in told.items() if words}
    assert retired_in(comments_of('int visits;  // a visit\nlog("no pace");')) == ["visit", "pace"]


def test_every_kind_of_text_is_read():
    source = '''
"""What the unrest costs.

    A docstring's indented visits.
    visits: a field, as in files.
"""
label = "two lessons"  # a picture
# It is broken over
# two lines: made
# up.
message = f"{visits} visits of {name}"
key = "visits"


def test_a_carrier_is_timed():
    pass
'''
    words = [told.split(": ")[1] for told in retired_prose(source)]
    assert words == ["unrest", "visits", "lessons", "picture", "made\nup", "visits", "carrier"]


def test_every_kind_of_name_is_read():
    source = "class StartLesson:\n    visits: int = 0\n\ndef remember_way(pace): right = too.visit_expr(x.blend)\n"
    assert [told.split(" ")[1] for told in retired_names(source)] == ["StartLesson", "remember_way", "blend"]
    source = "def f(found, *, known=1):\n    for rest in x: some = held\nwith y as held: z.found = 1\n"
    source += "a, *rest = z(found=2)\n"
    assert sorted(told.split(": ")[1] for told in fillers(source)) == ["found", "held", "known", "rest", "rest", "some"]


def test_every_exemption_is_still_needed():
    names = {name.text for file in FILES for name in names_of(source_of(file))}
    assert not EXEMPT.keys() - names
    for file, field in FIELDS:
        assert [told.split(": ")[1] for told in fillers(source_of(file))] == [field]
