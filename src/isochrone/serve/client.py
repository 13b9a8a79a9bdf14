"""For programs that call a fabric: grants that stay fresh, and an `httpx.Auth` that puts them on requests."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import httpx

from isochrone.authority.delegation import CHAIN_TOKEN_TYPE, join_chain
from isochrone.authority.exchange import GRANT_TYPE
from isochrone.authority.jose import PrivateKey
from isochrone.authority.possession import make_dpop
from isochrone.errors import AuthorityError, PeerError

__all__ = ["GrantAuth", "GrantSource", "Token"]

# A grant is renewed this long before it ends, so that no request goes out with one that ends on its way.
_RENEW_S = 15.0


@dataclass(frozen=True, slots=True)
class Token:
    """A grant in use, and when it ends by this machine's clock."""

    value: str
    ends_s: float


class GrantSource:
    """Exchanges a delegation chain for grants at the first site that answers, and keeps one fresh. Thread-safe.

    Args:
        sites: base URLs of ingress sites, nearest first.
        chain: delegation hops, root first. key: the key that the last hop delegates to.
    """

    def __init__(
        self, sites: Sequence[str], chain: Sequence[str], key: PrivateKey, contract: str, *, timeout_s: float = 5.0
    ) -> None:
        self._sites, self._chain, self._key, self._contract = tuple(sites), tuple(chain), key, contract
        self._timeout_s = timeout_s
        self._token: Token | None = None
        self._lock = threading.Lock()

    def token(self) -> str:
        """A grant that is valid for a while yet.

        Raises:
            AuthorityError: refused, with the site's reason.
            PeerError: no site answers.
        """
        with self._lock:
            if self._token is None or self._token.ends_s - time.monotonic() < _RENEW_S:
                self._token = self._exchange()
            return self._token.value

    def forget(self) -> None:
        """Exchange anew at the next call."""
        with self._lock:
            self._token = None

    def _exchange(self) -> Token:
        problems = []
        for base in self._sites:
            try:
                return self._ask(f"{base.rstrip('/')}/.isochrone/token")
            except httpx.HTTPError as error:
                problems.append(f"{base}: {error or type(error).__name__}")
            except PeerError as error:
                problems.append(f"{base}: {error}")
        raise PeerError(
            f"no site exchanges tokens: {'; '.join(problems)}", code="client.unreachable", hint="is the fabric up?"
        )

    def _ask(self, url: str) -> Token:
        proof = make_dpop(self._key, method="POST", url=url, now_s=time.time(), jti=secrets.token_urlsafe(16))
        form = {
            "grant_type": GRANT_TYPE,
            "subject_token": join_chain(self._chain),
            "subject_token_type": CHAIN_TOKEN_TYPE,
            "scope": f"contract:{self._contract}",
        }
        answer = httpx.post(url, data=form, headers={"dpop": proof}, timeout=self._timeout_s)
        body = answer.json() if "json" in answer.headers.get("content-type", "") else {}
        if answer.status_code == 200:
            return Token(body["access_token"], time.monotonic() + float(body["expires_in"]))
        if answer.status_code < 500 and "error" in body:
            raise AuthorityError(
                f"{body['error']}: {body.get('error_description', '')}",
                code=f"grant.{body['error']}",
                hint="see `isochrone delegations` for what the chain allows",
            )
        raise PeerError(f"HTTP {answer.status_code}: {answer.text[:200]}", code="client.exchange")


class GrantAuth(httpx.Auth):
    """``httpx.Client(auth=GrantAuth(source))``: every request carries a fresh grant; a 401 is tried once more."""

    def __init__(self, source: GrantSource) -> None:
        self._source = source

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["authorization"] = f"Bearer {self._source.token()}"
        answer = yield request
        if answer.status_code == 401:
            self._source.forget()
            request.headers["authorization"] = f"Bearer {self._source.token()}"
            yield request
