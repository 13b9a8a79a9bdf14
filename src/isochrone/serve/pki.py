"""Certificates: one authority per fabric, and certificates of short life for the hub and its sites, named by a URI.

A party makes its key itself and asks with a signing request (RFC 2986), of which only the public key counts: what a
certificate says of its holder is what the hub knows, not what was asked for. The door to `cryptography.x509`.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from isochrone.errors import InputError, IntegrityError

__all__ = ["SITE_LIFE_S", "Authority", "Credential", "SigningRequest", "agent_certificate", "fingerprint"]

SITE_LIFE_S = 24 * 3600
_AUTHORITY_LIFE_S = 3650 * 24 * 3600
# Clocks of sites differ a little; a certificate must be valid on arrival.
_BACKDATE = dt.timedelta(minutes=5)
_REQUEST_BYTES_MAX = 8 * 1024
_KEY_LINE = b"-----BEGIN PRIVATE KEY-----"


@dataclass(frozen=True, slots=True)
class Credential:
    """PEM texts: a certificate and its private key, which travel in one file so that they always belong together."""

    certificate: bytes
    key: bytes = field(repr=False)

    @classmethod
    def parse(cls, pem: bytes) -> Credential:
        """Both out of one text, as `pem` gives it; checked.

        Raises:
            InputError: ``certificate.form``, see `checked`.
        """
        certificate, line, key = pem.partition(_KEY_LINE)
        return cls(certificate, line + key).checked()

    def checked(self) -> Credential:
        """Itself, when the two belong together.

        Raises:
            InputError: ``certificate.form``: one of the two is missing or unreadable, or they do not belong together.
        """
        try:
            key = serialization.load_pem_private_key(self.key, None).public_key()
            matches = _certificate(self.certificate).public_key() == key
        except (ValueError, TypeError) as error:
            raise InputError(f"not a certificate and its private key: {error}", code="certificate.form") from error
        if not matches:
            raise InputError("the private key is not that of the certificate", code="certificate.form")
        return self

    @property
    def pem(self) -> bytes:
        return self.certificate + self.key

    @property
    def ends(self) -> dt.datetime:
        """When it is valid no more."""
        return _certificate(self.certificate).not_valid_after_utc

    def is_due(self, now: dt.datetime) -> bool:
        """Whether to renew: half its life is over, so that the other half is left to reach the hub in."""
        issued = _certificate(self.certificate).not_valid_before_utc + _BACKDATE
        return now >= issued + (self.ends - issued) / 2


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """A new key, and the request to certify it."""

    key: bytes = field(repr=False)
    request: bytes

    @classmethod
    def make(cls) -> SigningRequest:
        """A new P-256 key, which never leaves the machine that makes it."""
        key = ec.generate_private_key(ec.SECP256R1())
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        return cls(_pem(key), request.public_bytes(serialization.Encoding.PEM))

    def accept(self, certificate: bytes, authority: bytes, uri: str) -> Credential:
        """The credential, when the certificate is for this key, of that authority, and for that name.

        Raises:
            IntegrityError: ``certificate.wrong``.
        """
        try:
            credential = Credential.parse(certificate + self.key)
            issued = _certificate(certificate)
            issued.verify_directly_issued_by(_certificate(authority))
            names = issued.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            if names.get_values_for_type(x509.UniformResourceIdentifier) != [uri]:
                raise InputError(f"it is not for {uri}")
        except (InputError, InvalidSignature, x509.ExtensionNotFound, ValueError, TypeError) as error:
            raise IntegrityError(
                f"the certificate is not the one asked for: {error}", code="certificate.wrong"
            ) from error
        return credential


@dataclass(frozen=True, slots=True)
class Authority:
    """The fabric's certificate authority. Whoever holds its key can pose as any site: only the hub has it."""

    certificate: bytes
    key: bytes = field(repr=False)

    @classmethod
    def create(cls, fabric: str, now: dt.datetime) -> Authority:
        """A new self-signed P-256 authority, limited to issuing certificates of parties directly."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"isochrone {fabric}")])
        certificate = (
            _builder(name, name, key.public_key(), now, _AUTHORITY_LIFE_S)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(sign=False, issue=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate.public_bytes(serialization.Encoding.PEM), _pem(key))

    def issue(
        self, uri: str, now: dt.datetime, *, names: Sequence[str] = (), life_s: float = SITE_LIFE_S
    ) -> Credential:
        """A new key and its certificate, for a party on this machine; see `certify`."""
        asked = SigningRequest.make()
        return Credential(self.certify(asked.request, uri, now, names=names, life_s=life_s), asked.key)

    def certify(
        self, request: bytes, uri: str, now: dt.datetime, *, names: Sequence[str] = (), life_s: float = SITE_LIFE_S
    ) -> bytes:
        """A certificate for both ends of mutual TLS.

        Args:
            request: signing request in PEM, of which the key is used and nothing else.
            uri: the party's name. names: DNS names and IP addresses that clients know it by.

        Raises:
            InputError: ``certificate.request``: not a request for a P-256 key, signed by that key.
        """
        issuer = _certificate(self.certificate)
        issuer_key = serialization.load_pem_private_key(self.key, None)
        assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, uri.rsplit("/", 1)[-1][:64])])
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        alternatives = [x509.UniformResourceIdentifier(uri), *map(_general_name, names)]
        certificate = (
            _builder(name, issuer.subject, _requested_key(request), now, life_s)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(_usage(sign=True, issue=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(both), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
            .sign(issuer_key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)


def agent_certificate(name: str, key: bytes, now: dt.datetime, life_s: float = SITE_LIFE_S) -> Credential:
    """A certificate that an agent makes for its own key, to bind grants to: what counts of it is the key alone.

    Args:
        name: of the agent, for people who look at it. key: private key, PEM (`PrivateKey.pem`).
    """
    private = serialization.load_pem_private_key(key, None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    certificate = _builder(subject, subject, private.public_key(), now, life_s).sign(private, hashes.SHA256())
    return Credential(certificate.public_bytes(serialization.Encoding.PEM), _pem(private))


def fingerprint(certificate: bytes) -> str:
    """SHA-256 of a PEM certificate's DER form, in hexadecimal.

    Raises:
        InputError: ``certificate.form``.
    """
    try:
        return hashlib.sha256(_certificate(certificate).public_bytes(serialization.Encoding.DER)).hexdigest()
    except ValueError as error:
        raise InputError(f"not a certificate: {error}", code="certificate.form") from error


def _certificate(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def _requested_key(request: bytes) -> ec.EllipticCurvePublicKey:
    try:
        asked = x509.load_pem_x509_csr(request[:_REQUEST_BYTES_MAX])
        key = asked.public_key()
        if not asked.is_signature_valid or not isinstance(key, ec.EllipticCurvePublicKey):
            raise ValueError("its key did not sign it, or is not of an elliptic curve")
        if not isinstance(key.curve, ec.SECP256R1):
            raise ValueError(f"a key of {key.curve.name}, not of P-256")
    except (ValueError, TypeError) as error:
        raise InputError(f"not a certificate signing request: {error}", code="certificate.request") from error
    return key


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: dt.datetime, life_s: float
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + dt.timedelta(seconds=life_s))
    )


def _usage(*, sign: bool, issue: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=issue,
        crl_sign=issue,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
