"""For programs that call a fabric: grants that stay fresh, and what puts them on requests of `httpx` and `requests`."""

from __future__ import annotations

import asyncio
import secrets
import ssl
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from isochrone.authority.delegation import CHAIN_TOKEN_TYPE, join_chain
from isochrone.authority.exchange import GRANT_TYPE
from isochrone.authority.jose import PrivateKey
from isochrone.authority.possession import make_dpop
from isochrone.errors import AuthorityError, InputError, PeerError
from isochrone.forward.headers import REFUSED
from isochrone.serve.receipts import Receipt, fetch_receipt
from isochrone.serve.tls import trusting

__all__ = ["GrantAuth", "GrantSource", "RequestsAuth", "Token", "client_context", "needs_new_grant"]

# A grant is renewed before its last quarter, so that no request goes out with one that ends on its way.
_RENEW_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Token:
    """A grant in use, and until when, by this machine's clock."""

    value: str
    until_s: float


class GrantSource:
    """Exchanges a delegation chain for grants at the first site that answers, and keeps one fresh. Thread-safe.

    Args:
        sites: base URLs of ingress sites, nearest first.
        chain: delegation hops, root first. key: the key that the last hop delegates to.
        verify: PEM file of the authority that certifies the sites (``trust.pem`` of a fabric), believed beside those
            of the system; True for the system's alone.
        cert: PEM file of a certificate of `key`, followed by it (`agent_certificate`): grants are then bound to that
            certificate (RFC 8705), and are good on no connection that does not show it.

    Attributes:
        tls: for the client that makes the requests: ``httpx.Client(auth=GrantAuth(source), verify=source.tls)``.

    Raises:
        InputError: ``client.tls``: `verify` or `cert` cannot be used.
    """

    def __init__(
        self,
        sites: Sequence[str],
        chain: Sequence[str],
        key: PrivateKey,
        contract: str,
        *,
        timeout_s: float = 5.0,
        verify: Path | str | bool = True,
        cert: Path | str | None = None,
    ) -> None:
        self._sites, self._chain, self._key, self._contract = tuple(sites), tuple(chain), key, contract
        self._timeout_s, self._shows_certificate = timeout_s, cert is not None
        self.tls = client_context(verify, cert)
        self._token: Token | None = None
        self._lock = threading.Lock()

    def token(self) -> str:
        """A grant that is valid for a while yet.

        Raises:
            AuthorityError: refused, with the site's reason.
            PeerError: no site answers.
        """
        with self._lock:
            if self._token is None or self._token.until_s < time.monotonic():
                self._token = self._exchange()
            return self._token.value

    async def token_async(self) -> str:
        """As `token`, for ``openai.AsyncOpenAI(api_key=source.token_async)`` and the like."""
        return await asyncio.to_thread(self.token)

    def forget(self) -> None:
        """Exchange anew at the next call."""
        with self._lock:
            self._token = None

    def receipt(self, execution: str, *, timeout_s: float = 10.0) -> Receipt:
        """The receipt of an execution, from the first site; see `fetch_receipt`. Verify it by the site's log key."""
        return fetch_receipt(self._sites[0], execution, timeout_s=timeout_s, verify=self.tls)

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
        headers = {}
        if not self._shows_certificate:
            jti = secrets.token_urlsafe(16)
            headers["dpop"] = make_dpop(self._key, method="POST", url=url, now_s=time.time(), jti=jti)
        form = {
            "grant_type": GRANT_TYPE,
            "subject_token": join_chain(self._chain),
            "subject_token_type": CHAIN_TOKEN_TYPE,
            "scope": f"contract:{self._contract}",
        }
        answer = httpx.post(url, data=form, headers=headers, timeout=self._timeout_s, verify=self.tls)
        body = answer.json() if "json" in answer.headers.get("content-type", "") else {}
        if answer.status_code == 200:
            return Token(body["access_token"], time.monotonic() + float(body["expires_in"]) * (1 - _RENEW_SHARE))
        if answer.status_code < 500 and "error" in body:
            raise AuthorityError(
                f"{body['error']}: {body.get('error_description', '')}",
                code=f"grant.{body['error']}",
                hint="see `isochrone delegations` for what the chain allows",
            )
        raise PeerError(f"HTTP {answer.status_code}: {answer.text[:200]}", code="client.exchange")


def client_context(verify: Path | str | bool, cert: Path | str | None = None) -> ssl.SSLContext | bool:
    """For `verify` of httpx: see `GrantSource`.

    Raises:
        InputError: ``tls.files``, ``client.tls``.
    """
    if cert is None and isinstance(verify, bool):
        return verify
    context = ssl.create_default_context() if isinstance(verify, bool) else trusting(Path(verify))
    try:
        if verify is False:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if cert is not None:
            context.load_cert_chain(cert)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"cannot use {cert}: {error}", code="client.tls") from error
    return context


class GrantAuth(httpx.Auth):
    """``httpx.Client(auth=GrantAuth(source))``: every request carries a fresh grant, and is tried once more with a new
    one where the grant was not good any more, or its requests were used up."""

    def __init__(self, source: GrantSource) -> None:
        self._source = source

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["authorization"] = f"Bearer {self._source.token()}"
        answer = yield request
        if needs_new_grant(answer.status_code, answer.headers):
            self._source.forget()
            request.headers["authorization"] = f"Bearer {self._source.token()}"
            yield request


class RequestsAuth:
    """``requests.post(url, auth=RequestsAuth(source))``: what `GrantAuth` is to `httpx`.

    `requests` itself is not needed here: its authentication is anything that is called with the request to be sent.
    """

    def __init__(self, source: GrantSource) -> None:
        self._source = source

    def __call__(self, request: Any) -> Any:
        request.headers["authorization"] = f"Bearer {self._source.token()}"
        request.register_hook("response", self._again)
        return request

    def _again(self, answer: Any, **options: Any) -> Any:
        if not needs_new_grant(answer.status_code, answer.headers) or answer.history:
            return answer
        answer.content  # noqa: B018 - read to its end, so that the connection can be used again
        answer.close()
        self._source.forget()
        request = answer.request.copy()
        request.headers["authorization"] = f"Bearer {self._source.token()}"
        request.hooks["response"] = []
        again = answer.connection.send(request, **options)
        again.history.append(answer)
        again.request = request
        return again


def needs_new_grant(status: int, headers: Mapping[str, str]) -> bool:
    """Whether a refusal says that another grant would do: the one shown has ended, or its requests are used up."""
    return status == 401 or (status == 429 and headers.get(REFUSED) == "allowance")
