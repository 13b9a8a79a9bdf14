"""The hub's pages for people: a document to sign, a passkey to make, a link that is over. Plain HTML, one small script.

Everything that is shown is escaped here; the script reads its task from a data block and writes text only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from isochrone.console.words import Facts, Words, words

__all__ = ["HubPages"]

_OVER = {
    "unknown": ("No such link", "Nothing is to be signed here. Ask for a new link, and open the whole of it."),
    "used": ("This link was used", "What it led to is done. A link works once."),
    "expired": ("This link has expired", "Nothing was signed. Ask for a new one."),
}
_ASSETS = {"page.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8"}


class HubPages:
    """What the hub shows; see `serve.hub_web.Views`."""

    def __init__(self, fabric: str) -> None:
        self._fabric = fabric

    def words(self, typ: str, claims: Mapping[str, Any], facts: Mapping[str, Any]) -> Words:
        """See `words.words`."""
        return words(typ, claims, Facts(**facts))

    def sign(self, person: str, said: Words, code: str, task: Mapping[str, Any]) -> str:
        """A document to sign. `task` is for the script: the passkeys that may sign, each with its challenge."""
        passkeys = task["passkeys"]
        choice = _choice(passkeys) if len(passkeys) > 1 else ""
        body = f"""
<p class="who">{escape(person)}, you are asked to sign:</p>
<h1>{escape(said.title)}</h1>
<p class="lead">{escape(said.lead)}</p>
{_facts(said.lines)}
<p class="code">Compare: <strong>{escape(code)}</strong> <span>The command that asks shows the same.</span></p>
{choice}
<div class="act">
<button id="go" type="button">Sign with passkey</button>
<button id="no" type="button" class="quiet">Do not sign</button>
</div>
<p id="said" role="status" aria-live="polite"></p>"""
        return self._page(said.title, body, {"do": "sign", **task})

    def register(self, person: str, name: str, by: str, is_operator: bool, task: Mapping[str, Any]) -> str:
        """A passkey to make. `task` is for the script: what ``navigator.credentials.create`` is given."""
        lines = ["your passkey stays with you: only its public half is sent", "used at " + str(task["origin"])]
        lines += ["as an operator you may enrol and retire people, and change the fabric"] if is_operator else []
        body = f"""
<p class="who">{escape(by)} invites you to the fabric {escape(self._fabric)}</p>
<h1>Make a passkey, {escape(name)}</h1>
<p class="lead">With it you will sign as <strong>{escape(person)}</strong>: what agents may do in your name.</p>
{_facts(lines)}
<div class="act">
<button id="go" type="button">Make a passkey</button>
<button id="no" type="button" class="quiet">Not now</button>
</div>
<p id="said" role="status" aria-live="polite"></p>"""
        return self._page("Make a passkey", body, {"do": "register", **task})

    def over(self, why: str) -> str:
        """A link that leads nowhere (any more)."""
        title, text = _OVER[why]
        return self._page(title, f"\n<h1>{escape(title)}</h1>\n<p class='lead'>{escape(text)}</p>", None)

    def asset(self, name: str) -> tuple[bytes, str] | None:
        """Content and media type of a file that pages refer to."""
        kind = _ASSETS.get(name)
        return (resources.files(__package__).joinpath("pages", name).read_bytes(), kind) if kind else None

    def _page(self, title: str, body: str, task: Mapping[str, Any] | None) -> str:
        # A data block, not a script: it is never run. `<` would end it early.
        data = json.dumps(task).replace("<", "\\u003c")
        block = f'<script type="application/json" id="task">{data}</script>\n<script src="/pages/page.js"></script>'
        return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)} - Isochrone</title>
<link rel="stylesheet" href="/pages/page.css">
</head>
<body>
<header><span class="mark" aria-hidden="true"></span>Isochrone <span>fabric {escape(self._fabric)}</span></header>
<main>{body}
</main>
{block if task is not None else ""}
</body>
</html>
"""


def _facts(lines: Sequence[str]) -> str:
    items = "".join(f"<li{_sign(line)}>{escape(line)}</li>" for line in lines)
    return f'<ul class="facts">{items}</ul>' if items else ""


def _sign(line: str) -> str:
    """Changes are coloured by their sign; the sign itself stays, for those who see no colour."""
    kind = {"+ ": "plus", "- ": "minus", "~ ": "other"}.get(line[:2])
    return f' class="{kind}"' if kind else ""


def _choice(passkeys: Sequence[Mapping[str, Any]]) -> str:
    options = "".join(
        f'<label><input type="radio" name="passkey" value="{index}"{" checked" if not index else ""}>'
        f"passkey {escape(str(each['label']))}</label>"
        for index, each in enumerate(passkeys)
    )
    return f"<fieldset><legend>Which of your passkeys?</legend>{options}</fieldset>"
