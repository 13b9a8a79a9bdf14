"""A software authenticator, which signs as the W3C document says that a real one does."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from isochrone.authority.jose import PublicKey, b64u_encode
from isochrone.authority.proof import Passkey
from isochrone.authority.testing import named_key

RP_ID, ORIGIN = "acme.example", "https://hub.acme.example"
UP, UV = 0x01, 0x04


@dataclass(frozen=True)
class Authenticator:
    """W3C Web Authentication Level 3, section 6: what it signs is authenticator data and the client data's hash."""

    name: str = "ada's phone"
    kty: str = "EC"

    @property
    def public(self) -> PublicKey:
        return named_key(self.name, self.kty).public

    def passkey(self) -> Passkey:
        return Passkey(b64u_encode(self.name.encode()), RP_ID, (ORIGIN,))

    def get(self, wanted: bytes, *, origin: str = ORIGIN, flags: int = UP | UV, rp_id: str = RP_ID) -> dict[str, Any]:
        kind = "webauthn.get"
        client = json.dumps({"type": kind, "challenge": b64u_encode(wanted), "origin": origin}).encode()
        data = hashlib.sha256(rp_id.encode()).digest() + bytes([flags]) + (7).to_bytes(4, "big")
        key = named_key(self.name, self.kty)
        signed = data + hashlib.sha256(client).digest()
        if self.kty == "EC":
            handle = serialization.load_pem_private_key(key.pem(), None)
            assert isinstance(handle, ec.EllipticCurvePrivateKey)
            signature = handle.sign(signed, ec.ECDSA(hashes.SHA256()))
        else:
            signature = key.sign(signed)
        response = {"clientDataJSON": client, "authenticatorData": data, "signature": signature}
        shown = {name: b64u_encode(value) for name, value in response.items()}
        return {"id": self.passkey().credential_id, "type": "public-key", "response": shown}
