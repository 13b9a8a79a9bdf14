"""External authorization: what Envoy asks the node before it forwards, on a Unix socket, and how that is recorded.

The verdict is `control.authorization`; here are its inputs, its record and its HTTP. A verdict under synchronous
evidence is given once its record is on disk; requests that wait at the same time share one write (group commit of the
logbook). A node that is dead, slow or cannot write gives none, and Envoy then refuses.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from isochrone.authority.grant import Grant, GrantRefused, verify_grant
from isochrone.authority.jose import PublicKey
from isochrone.control.authorization import Asked, Judge, is_synchronous
from isochrone.control.node import NodeState
from isochrone.errors import IsochroneError, PeerError
from isochrone.forward.filters import AUTHORIZE_HERE
from isochrone.forward.headers import EXECUTION, INGRESS, MEANT, REFUSED
from isochrone.forward.problem import MEDIA_TYPE, problem_type
from isochrone.policy.verdict import Allow, Deny, Reason, Verdict
from isochrone.record.records import authorization
from isochrone.serve.chains import Chains
from isochrone.serve.decisions import DecisionPoint
from isochrone.serve.logbook import Logbook

__all__ = ["Authorizer"]

_GRANTS_MAX = 10_000
Measure = Callable[[str | None], Mapping[str, int] | None]
Headers = list[tuple[bytes, bytes]]


class Authorizer:
    """One site's: an ASGI application, to be served on a socket that Envoy alone opens.

    Args:
        state: what the site knows now. point: its decision point, prepared for the policies in that state.
        measure: what is measured of an execution here that entered at a site.
    """

    def __init__(
        self,
        judge: Judge,
        logbook: Logbook,
        chains: Chains,
        state: Callable[[], NodeState],
        point: DecisionPoint,
        measure: Measure,
    ) -> None:
        self._judge, self._logbook, self._chains = judge, logbook, chains
        self._state, self._point, self._measure = state, point, measure
        self._keys: tuple[object, dict[str, PublicKey]] = (None, {})
        self._grants: dict[str, Grant] = {}

    async def __call__(self, scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        """Answer one question of Envoy: 200, or the problem document that becomes the client's answer."""
        given = {name: [v for n, v in scope["headers"] if n == name.encode()] for name in _READ}
        if any(len(values) > 1 for values in given.values()):
            await _answer(send, 400, "malformed", "A header came twice", "", self._logbook.here.name)
            return
        header = {name: values[0].decode("latin-1") for name, values in given.items() if values}
        _, role, name, *rest = scope["raw_path"].decode("latin-1").split("/", 3)
        asked = Asked(
            header.get("x-request-id", ""), role, name == AUTHORIZE_HERE, scope["method"], "/" + "".join(rest),
            header.get(INGRESS) or (self._logbook.here.name if role == "ingress" else None), header.get(MEANT),
        )  # fmt: skip
        verdict = await self._recorded(asked, header.get("authorization", "").removeprefix("Bearer "))
        status, kind, title = _shown(verdict)
        detail = "; ".join(str(reason) for reason in verdict.reasons)
        await _answer(send, status, kind, title, detail, f"{self._logbook.here.name}/{asked.execution}")

    async def _recorded(self, asked: Asked, token: str) -> Verdict:
        """The verdict, on disk where it must be. What is not in order on the way is a refusal."""
        state, now_s = self._state(), time.time()
        grant = self._verified(state, token, now_s)
        if isinstance(grant, GrantRefused):
            return Deny(tuple(Reason("grant", text=str(reason)) for reason in grant.reasons))
        synchronous = is_synchronous(state, str(grant.claims["ctr"]))
        try:
            minted_by = state.minters.get(grant.signer, "")
            chain = await self._chains.behind(state, grant, minted_by) if synchronous else None
        except PeerError as error:
            return Deny((Reason("unavailable", text=str(error)),))
        point, measured = self._point(state.fabric, state.policies), self._measure(asked.ingress)
        verdict = self._judge.verdict(state, point, grant, chain, asked, now_s, measured)
        record = authorization(
            self._logbook.here, int(now_s * 1e6), grant.claims, _told(asked),
            allowed=isinstance(verdict, Allow), reasons=[str(reason) for reason in verdict.reasons],
            policy=point.policies.digest, plan=state.plan.revision if state.plan else 0,
            epoch=state.revocations.epoch if state.revocations else 0, synchronous=synchronous,
        )  # fmt: skip
        try:
            entry = self._logbook.submit(record)
            if synchronous:
                await entry
            else:
                # The journal has the request too: here the record adds the reasons, and nobody waits for it.
                entry.add_done_callback(lambda done: done.cancelled() or done.exception())
        except IsochroneError as error:
            return Deny((Reason("unrecorded", text=str(error)),))
        return verdict

    def _verified(self, state: NodeState, token: str, now_s: float) -> Grant | GrantRefused:
        """The grant, verified once while it lives."""
        known = self._grants.get(token)
        if known is not None and now_s < known.exp_s and self._keys[0] is state.jwks:
            return known
        if self._keys[0] is not state.jwks:
            self._grants.clear()
            self._keys = (state.jwks, {jwk["kid"]: _public(jwk) for jwk in state.jwks["keys"]})
        fabric = state.fabric.name if state.fabric else ""
        grant = verify_grant(token, list(self._keys[1].values()), fabric=fabric, now_s=now_s)
        if isinstance(grant, Grant):
            if len(self._grants) >= _GRANTS_MAX:
                self._grants.clear()
            self._grants[token] = grant
        return grant


_READ = ("authorization", "x-request-id", INGRESS, MEANT)
_STATUS = {
    "grant": (401, "grant", "The grant is missing or not valid"),
    "unrecorded": (503, "unrecorded", "Nothing can be recorded here now"),
    "unavailable": (503, "unavailable", "The authority of this request cannot be verified now"),
}
_DENIED = (403, "denied", "The grant, its policy or its revocation does not allow this")


def _shown(verdict: Verdict) -> tuple[int, str, str]:
    """Status, kind and title of the answer to a verdict."""
    if isinstance(verdict, Allow):
        return 200, "", ""
    return next((_STATUS[reason.code] for reason in verdict.reasons if reason.code in _STATUS), _DENIED)


def _told(asked: Asked) -> dict[str, Any]:
    request = {"method": asked.method, "path": asked.path}
    return {"id": asked.execution, "role": asked.role, "request": request, "here": asked.here}


def _public(jwk: Mapping[str, Any]) -> PublicKey:
    return PublicKey.from_jwk({name: jwk[name] for name in ("kty", "crv", "x", "y")})


async def _answer(
    send: Callable[[Any], Awaitable[None]], status: int, kind: str, title: str, detail: str, execution: str
) -> None:
    headers: Headers = []
    body = b""
    if status != 200:
        document = {"type": problem_type(kind), "title": title, "status": status, "detail": detail[:2000]}
        body = json.dumps(document | {"instance": execution}).encode()
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (REFUSED.encode(), kind.encode()),
            (EXECUTION.encode(), execution.encode("latin-1", "replace")),
        ]
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
