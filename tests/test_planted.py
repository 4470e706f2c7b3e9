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


def test_the_list_is_that_of_the_page():
    page = (HERE / "PLANTED.md").read_text()
    assert page.endswith(planted.table()), "end it with what python tests/planted.py --table prints"


def test_there_are_enough_and_no_two_alike():
    assert len({b.name for b in planted.BUGS}) == len(planted.BUGS) >= 20
    edits = {(b.file, b.right, b.wrong) for b in planted.BUGS}
    assert len(edits) == len(planted.BUGS)


def test_the_faults_that_are_common_are_planted():
    """All but three: nothing here squashes actions, skips frames, or has a schedule by steps."""
    common = [fault for faults in planted.COMMON.values() for fault in faults]
    here = {b.common for b in planted.BUGS} - {""}
    assert len(set(common)) == len(common) and here <= set(common) and len(here) >= 20
    assert set(common) - here == {
        "tanh correction missing",
        "frame count doubled by frame skip",
        "learning-rate schedule by update instead of step",
    }
