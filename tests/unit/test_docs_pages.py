"""Does every page say what is there? Links resolve, commands parse, modules and options named exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from isochrone.cli.main import main
from support.doc_pages import ROOT, Page, pages

PAGES = pages()
IDS = [each.name for each in PAGES]
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_MODULE = re.compile(r"^(?:[a-z_]+/)+[a-z_]+\.py$")
_CONTROL = {"(", ")", "|", "||", "&&", "&", ";", ">", "<", ">>"}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_resolve(page: Page) -> None:
    text = _prose(page)
    for target in _LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.path.parent / path).resolve() if path else page.path
        assert there.exists(), f"{page.name} links to {target}, which is not there"
        assert not anchor or anchor in _anchors(there), f"{page.name} links to {target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_parse(page: Page) -> None:
    for place, words in _commands(page):
        problem = _problem(words)
        assert problem is None, f"{page.name}:{place}: isochrone {shlex.join(words)}\n{problem}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_and_modules_named_in_the_text_exist(page: Page) -> None:
    for code in _CODE.findall(_prose(page)):
        name = re.match(r"isochrone ([a-z]+)\b", code)
        if name:
            assert name[1] in main.list_commands(click.Context(main)), f"{page.name} names `{code}`"
        if _MODULE.match(code):
            places = [ROOT / code, ROOT / "src" / "isochrone" / code, page.path.parent / code]
            assert any(place.exists() for place in places), f"{page.name} names {code}, which is not there"


def test_every_page_is_reached_from_the_index() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "README.md", ROOT / "docs" / "README.md"]
    while waiting:
        at = waiting.pop()
        if at in seen:
            continue
        seen.add(at)
        found = [(at.parent / link.partition("#")[0]).resolve() for link in _LINK.findall(at.read_text())]
        waiting += [path for path in found if path.suffix == ".md" and path.is_file()]
    lost = [each.name for each in PAGES if each.path not in seen]
    assert not lost, f"no link leads to {lost}"


@pytest.mark.parametrize("wrong", ["nonsense", "delegate", "status --nonsense", "revoke planet x --reason y"])
def test_a_wrong_command_is_seen(wrong: str) -> None:
    assert _problem(shlex.split(wrong)) is not None


def test_commands_are_found_where_a_shell_finds_them() -> None:
    line = "T=$(isochrone token --as agent:a --contract c) && isochrone status --json | jq . # isochrone nonsense"
    assert list(_isochrone(line)) == [["token", "--as", "agent:a", "--contract", "c"], ["status", "--json"]]


def _prose(page: Page) -> str:
    return re.sub(r"^ *```.*?^ *```$", "", page.path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _commands(page: Page) -> Iterator[tuple[int, list[str]]]:
    """Every isochrone command in a block of shell commands."""
    for block in page.blocks:
        if block.language == "console":
            for command in block.commands:
                yield from ((command.line, words) for words in _isochrone(command.text))
        elif block.language in ("sh", "bash", "shell"):
            yield from ((block.line, words) for words in _isochrone(block.text))


def _isochrone(text: str) -> Iterator[list[str]]:
    # Heredocs and the like may not be shell words throughout; a page should show simple commands.
    lexer = shlex.shlex(text.replace("\\\n", " ").replace("\n", " ; "), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    command: list[str] = []
    for token in [*lexer, ";"]:
        if token not in _CONTROL and not set(token) <= set("();|&<>"):
            command.append(token)
            continue
        if command and command[0] == "isochrone":
            yield command[1:]
        command = []


def _problem(words: list[str]) -> str | None:
    """What click says of a command that is parsed and not run; None when it parses."""
    try:
        context = main.make_context("isochrone", list(words))
        while isinstance(context.command, click.Group):
            rest = [*context._protected_args, *context.args]
            if not rest:
                return None
            name, command, rest = context.command.resolve_command(context, rest)
            assert command is not None
            context = command.make_context(name, rest, parent=context)
    except click.exceptions.Exit:
        return None
    except click.UsageError as error:
        # Files that an earlier step of the page makes are not here.
        return None if "does not exist" in error.format_message() else error.format_message()
    return None
