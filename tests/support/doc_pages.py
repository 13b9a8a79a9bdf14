"""Documentation that runs: the commands a page shows, run in their order, with what they print held against the page.

The language of a fenced block says what it is, one word after it how it is used:

    console              commands after ``$ `` (``> `` continues one), each followed by lines its output must show, in
                         this order; ``...`` stands for anything. A command must succeed unless ``$ echo $?`` follows
    console background   one command that goes on; the page continues when the lines below it have been printed
    console interrupt    Ctrl-C to everything in the background, and lines it must have printed in the end
    console elsewhere    shown, not run (another machine, or too long); must still parse
    diff file=NAME       an edit of a file; any other language with ``file=NAME`` writes the file

A page that contains ``<!-- continues: PAGE -->`` runs where that page has left off. Ports in ``127.0.0.1:PORT`` become
free ones, so that pages can run side by side.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from isochrone.serve.process import free_port

__all__ = ["ROOT", "Block", "Page", "Session", "page", "pages"]

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^( *)```(\S*) *(.*)$")
_MARK = "__done__"
_USES = ("background", "interrupt", "elsewhere")


@dataclass(frozen=True, slots=True)
class Command:
    """One command and the lines its output must show."""

    line: int
    text: str
    shows: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. `use` is one of the words above, or empty; `file` is set for edits and files."""

    line: int
    section: str
    language: str
    use: str
    file: str
    text: str

    @property
    def commands(self) -> tuple[Command, ...]:
        """What a console block runs."""
        found: list[Command] = []
        for number, line in enumerate(self.text.splitlines(), start=self.line + 1):
            if line.startswith("$ "):
                found.append(Command(number, line[2:], ()))
            elif line.startswith("> ") and found and not found[-1].shows:
                found[-1] = Command(found[-1].line, f"{found[-1].text}\n{line[2:]}", ())
            elif found:
                found[-1] = Command(found[-1].line, found[-1].text, (*found[-1].shows, line))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Page:
    """A page of documentation."""

    path: Path
    blocks: tuple[Block, ...]
    continues: Path | None

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix() if self.path.is_relative_to(ROOT) else self.path.name

    @property
    def runs(self) -> bool:
        """Whether the page has anything to run."""
        return any(block.language == "console" and block.use != "elsewhere" for block in self.blocks)


def page(path: Path) -> Page:
    """Read a page."""
    text = path.read_text(encoding="utf-8")
    after = re.search(r"<!-- continues: (\S+) -->", text)
    return Page(path, tuple(_blocks(text)), (path.parent / after[1]).resolve() if after else None)


def pages() -> list[Page]:
    """README, CHANGELOG and everything below docs/."""
    return [page(path) for path in sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")})]


def _blocks(text: str) -> Iterator[Block]:
    section, opened = "", None
    body: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        fence = _FENCE.match(line)
        if opened is None and fence:
            opened, body = (number, len(fence[1]), fence[2], fence[3].split()), []
        elif opened is None and line.startswith("#"):
            section = line.lstrip("# ")
        elif opened is not None and line.strip() == "```":
            at, _, language, words = opened
            use = next((word for word in words if word in _USES), "")
            file = next((word.removeprefix("file=") for word in words if word.startswith("file=")), "")
            yield Block(at, section, language, use, file, "\n".join(body) + "\n")
            opened = None
        elif opened is not None:
            body.append(line[opened[1] :])


@dataclass(slots=True)
class Session:
    """A reader at work: a scratch directory, a shell that keeps its variables, and what goes on in the background."""

    directory: Path
    command_timeout_s: float = 60.0
    _ports: dict[str, str] = field(default_factory=dict)
    _background: list[tuple[subprocess.Popen[bytes], Path]] = field(default_factory=list)
    _shell: subprocess.Popen[str] | None = None

    def __enter__(self) -> Session:
        self._shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, cwd=self.directory, env=self._environment(), start_new_session=True,
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        assert self._shell is not None
        self._shell.kill()
        self._shell.communicate()
        with contextlib.suppress(AssertionError):
            self._interrupt(())

    def run(self, of: Page, block: Block) -> None:
        """Do what a block says.

        Raises:
            AssertionError: it went otherwise than the page shows; says where and what was printed.
        """
        try:
            self._do(of, block)
        except AssertionError as error:
            raise AssertionError(f"{error}{self._behind()}") from None

    def _do(self, of: Page, block: Block) -> None:
        where = f"{of.name}:{block.line}"
        if block.file and block.language == "diff":
            self._edit(where, block)
        elif block.file:
            file = self.directory / block.file
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(self._here(block.text), encoding="utf-8")
        elif block.language == "console" and block.use == "background":
            self._start(where, block.commands[0])
        elif block.language == "console" and block.use == "interrupt":
            shows = [line for line in block.text.splitlines() if line != "^C"]
            self._interrupt(tuple(shows), where)
        elif block.language == "console" and block.use != "elsewhere":
            self._type(of, block.commands)

    def _behind(self) -> str:
        """What goes on in the background, for whoever reads of a failure."""
        told = ""
        for process, log in self._background:
            state = "goes on" if process.poll() is None else f"has ended with status {process.returncode}"
            told += f"\nin the background, {process.args!r} {state}:\n{log.read_text()[-2000:]}"
        return told

    def _environment(self) -> dict[str, str]:
        """As a newcomer has it: this interpreter first, no state of ours, plain wide output."""
        ours = {key: value for key, value in os.environ.items() if not key.startswith("ISOCHRONE")}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return ours | {"PATH": path, "HOME": str(self.directory), "COLUMNS": "200", "NO_COLOR": "1"}

    def _type(self, of: Page, commands: tuple[Command, ...]) -> None:
        for number, command in enumerate(commands):
            status, printed = self._ask(self._here(command.text))
            asks_status = number + 1 < len(commands) and commands[number + 1].text == "echo $?"
            where = f"{of.name}:{command.line}: $ {command.text}"
            assert status == 0 or asks_status, f"{where}\nended with status {status}:\n{printed}"
            self._compare(where, command.shows, printed)

    def _ask(self, text: str) -> tuple[int, str]:
        shell = self._shell
        assert shell is not None
        assert shell.stdin is not None
        assert shell.stdout is not None
        # The status is put back, so that `echo $?` on the page asks for it.
        shell.stdin.write(f"{{ {text}\n}} </dev/null\n__s=$?; printf '\\n%s %s\\n' {_MARK} $__s; (exit $__s)\n")
        shell.stdin.flush()
        printed: list[str] = []
        watchdog = threading.Timer(self.command_timeout_s, shell.kill)
        watchdog.start()
        for line in shell.stdout:
            if line.startswith(_MARK):
                watchdog.cancel()
                return int(line.split()[1]), "".join(printed)
            printed.append(line)
        raise AssertionError(f"the shell ended, or took too long, at: $ {text}\n{''.join(printed)}")

    def _start(self, where: str, command: Command) -> None:
        log = Path(tempfile.mkstemp(dir=self.directory, suffix=".printed")[1])
        words = ["bash", "-c", f"exec {self._here(command.text)}"]
        with log.open("wb") as out:
            process = subprocess.Popen(
                words, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=self.directory,
                start_new_session=True, env=self._environment(),
            )  # fmt: skip
        self._background.append((process, log))
        deadline_s = time.monotonic() + 2 * self.command_timeout_s
        while True:
            ended = process.poll() is not None
            try:
                self._compare(f"{where}: $ {command.text}", command.shows, log.read_text())
                assert not ended, (
                    f"{where}: $ {command.text}\nended with status {process.returncode}:\n{log.read_text()}"
                )
                return
            except AssertionError:
                if ended or time.monotonic() > deadline_s:
                    raise
            time.sleep(0.2)

    def _interrupt(self, shows: tuple[str, ...], where: str = "at the end") -> None:
        printed = ""
        for process, log in reversed(self._background):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    printed += f"({process.args!r} did not end after Ctrl-C)\n"
            printed += log.read_text()
        self._background.clear()
        assert "did not end after Ctrl-C)" not in printed, f"{where}\n{printed}"
        self._compare(f"{where}: Ctrl-C", shows, printed)

    def _edit(self, where: str, block: Block) -> None:
        file = self.directory / block.file
        lines = self._here(block.text).splitlines()
        before = [line[1:] for line in lines if line[:1] in (" ", "-")]
        after = [line[1:] for line in lines if line[:1] in (" ", "+")]
        old, new = "\n".join(before) + "\n", "\n".join(after) + "\n"
        text = file.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{where}: the lines to edit stand {text.count(old)} times in {block.file}:\n{old}"
        file.write_text(text.replace(old, new), encoding="utf-8")

    def _compare(self, where: str, shows: tuple[str, ...], printed: str) -> None:
        lines = iter([" ".join(line.split()) for line in printed.splitlines()])
        for shown in shows:
            words = " ".join(self._here(shown).split())
            pattern = re.compile(".*".join(map(re.escape, re.split(r" ?\.\.\. ?", words))))
            if words and not any(pattern.fullmatch(line) for line in lines):
                raise AssertionError(f"{where}\nthe page shows\n    {shown}\nbut it printed\n{printed}")

    def _here(self, text: str) -> str:
        return re.sub(r"127\.0\.0\.1:(\d+)", lambda found: f"127.0.0.1:{self._port(found[1])}", text)

    def _port(self, shown: str) -> str:
        if shown not in self._ports:
            self._ports[shown] = str(free_port())
        return self._ports[shown]
