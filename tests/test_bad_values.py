"""Bad values of every flag end with status 2 and one line; ``python -m tests.bad_values`` tries the whole table."""

from __future__ import annotations

import pytest

from src.errors import UserError
from tests.bad_values import MAINS, fault_of, make_places, pairs, parsers, rows

ROWS = list(rows())  # fails for a flag of a kind that the table lacks
EVERY = 8  # rows between those that are tried here


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return make_places(tmp_path_factory.mktemp("places"))


def test_every_flag_of_every_script_has_bad_values():
    tried = {(row.script, row.flag) for row in ROWS}
    for script, parser in parsers().items():
        for action in parser._actions[1:]:
            assert any((script, option) in tried for option in action.option_strings or [""])


@pytest.mark.parametrize("program", MAINS)
def test_bad_values_are_refused_in_one_line(places, monkeypatch, program):
    monkeypatch.chdir(places["out"])
    mine = [row for row in ROWS if row.script.startswith(program)][::EVERY]
    assert [fault for row in mine if (fault := fault_of(row, places))] == []


@pytest.mark.parametrize(("script", "words"), [pytest.param(*pair, id=" ".join(pair[1])) for pair in pairs()])
def test_flags_without_effect_are_refused(script, words):
    parser = parsers()[script]
    for action in parser._actions:
        action.required = False
    for group in parser._mutually_exclusive_groups:
        group.required = False
    with pytest.raises(UserError, match=rf"^{words[0]}.*has no effect with"):
        parser.parse_args(words)
