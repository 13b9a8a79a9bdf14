"""Authority: who let this run, how far that goes, and how it is taken back.

| module | what it knows |
|---|---|
| `jose` | keys, thumbprints, strict compact JWS; the door to `cryptography` and `joserfc` |
| `reasons` | why something was refused |
| `scope` | the closed vocabulary of what can be delegated, and its one order |
| `proof` | signature or passkey assertion, as a tagged union; the door to `webauthn` |
| `identity` | people, agents and their keys, as a sequenced registry |
| `delegation` | one signed hop: issuing, parsing, linking |
| `chain` | verification of a whole chain, and the cache of chains seen |
| `grant` | the short token for one contract, and its headers |
| `revocation` | the signed feed, freshness, the deny map, the bound |
| `entitlement` | who may revoke what |
| `possession` | DPoP and certificates |
| `exchange` | RFC 8693 parameters and RFC 6749 errors as values |
| `desk` | every step from token request to grant, in the one safe order |
| `explain` | a delegation in words |
| `budget` | reserve and settle, leases, rates |
| `testing` | a small world with reproducible keys, for tests and simulations |

Pure: the time, unique ids and keys are arguments. A refusal is a value with its reasons.
"""
