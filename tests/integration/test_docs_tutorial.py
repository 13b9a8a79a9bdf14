"""Does what the pages show happen? Each page is followed, command by command, on a fabric with real models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.doc_pages import ROOT, Page, Session, page, pages

# A whole fabric with real models starts within a test's time; two cores shared with other tests make it slow.
pytestmark = pytest.mark.timeout(300)

TUTORIAL = page(ROOT / "docs" / "tutorial.md")
# Pages that continue the tutorial need its authority, so they come before the section that takes it back.
LAST_SECTION = "Take it back"
RUN = [each for each in pages() if each.runs and each.path != TUTORIAL.path]
CONTINUING = [each for each in RUN if each.continues == TUTORIAL.path]
ALONE = [each for each in RUN if each.continues is None]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A reader who has followed the tutorial up to its last part."""
    with Session(tmp_path_factory.mktemp("tutorial")) as session:
        _follow(session, TUTORIAL, last=False)
        yield session


def test_the_tutorial_has_a_last_part() -> None:
    assert any(block.section == LAST_SECTION for block in TUTORIAL.blocks)
    assert {each.continues for each in RUN} <= {None, TUTORIAL.path}


@pytest.mark.parametrize("page", CONTINUING, ids=[each.name for each in CONTINUING])
def test_a_page_that_continues_the_tutorial(reader: Session, page: Page) -> None:
    for block in page.blocks:
        reader.run(page, block)


def test_the_tutorial_ends(reader: Session) -> None:
    _follow(reader, TUTORIAL, last=True)


@pytest.mark.parametrize("page", ALONE, ids=[each.name for each in ALONE])
def test_a_page_that_stands_alone(tmp_path: Path, page: Page) -> None:
    with Session(tmp_path) as session:
        for block in page.blocks:
            session.run(page, block)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("```console\n$ echo one; echo two\ntwo\none\n```\n", "the page shows"),
        ("```console\n$ false\n$ echo on\n```\n", "status 1"),
        ("```console background\n$ echo short\nlong\n```\n", "the page shows"),
        ("```diff file=a.txt\n-not there\n+there\n```\n", "0 times"),
    ],
)
def test_a_page_that_shows_what_does_not_happen_fails(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "a.txt").write_text("something else\n")
    wrong = tmp_path / "page.md"
    wrong.write_text(text)
    shown = page(wrong)
    with Session(tmp_path) as session, pytest.raises(AssertionError, match=why):
        session.run(shown, shown.blocks[0])


def test_what_a_page_shows_is_held_against_what_it_prints(tmp_path: Path) -> None:
    right = tmp_path / "page.md"
    right.write_text("```console\n$ A=1\n$ echo $A two \\\n>   three\n1 ... three\n$ (exit 3)\n$ echo $?\n3\n```\n")
    shown = page(right)
    with Session(tmp_path) as session:
        session.run(shown, shown.blocks[0])


def _follow(session: Session, tutorial: Page, *, last: bool) -> None:
    reached = False
    for block in tutorial.blocks:
        reached = reached or block.section == LAST_SECTION
        if reached == last:
            session.run(tutorial, block)
