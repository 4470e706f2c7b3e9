"""The list of planted bugs stays true: every edit fits the source in one place and changes it, and
names a test that is there. `python tests/planted.py` plants them."""

import re
from pathlib import Path

import pytest

import planted

HERE = Path(__file__).parent


@pytest.mark.parametrize("bug", planted.BUGS, ids=lambda b: b.name)
def test_it_can_still_be_planted(bug):
    source = (planted.ROOT / "src" / "surefoot" / bug.file).read_text()
    assert source.count(bug.right) == 1 and bug.wrong != bug.right
    file, name, _ = re.fullmatch(r"(\w+\.py)::(\w+)(\[.+\])?", bug.test).groups()
    assert f"def {name}(" in (HERE / file).read_text()
    row = f"| {bug.name} | `{bug.test}` |"
    assert row in (HERE / "PLANTED.md").read_text(), row


def test_there_are_enough_and_no_two_alike():
    assert len({b.name for b in planted.BUGS}) == len(planted.BUGS) >= 20
