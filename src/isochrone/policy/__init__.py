"""Policy: Cedar text in; verdicts, Envoy conditions, analyses and signed bundles out. Pure: no I/O, no clock.

PolicySet.parse(texts)                     parsed, validated against our schema, with a digest
PDP(policies, world).verdict(...)          Allow | Deny, every error a Deny
compile_for_site(policies, site, world)    the ALLOW-only RBAC rules for that site's Envoy
allowed_sites(policies, contract, sites)   which sites a contract may use (placement and the route lock)
analysis.*                                 exact questions over the finite vocabulary
bundle.*                                   DSSE envelope that travels with a workload
"""

from isochrone.policy.compile import CompiledPolicy, compile_anywhere, compile_for_site, compile_sites
from isochrone.policy.pdp import PDP, Request
from isochrone.policy.policies import Finding, PolicySet, PolicyTextError
from isochrone.policy.reach import allowed_sites
from isochrone.policy.verdict import Allow, Deny, Reason
from isochrone.policy.vocabulary import FACTS, AgentFacts, ContractFacts, HumanFacts, SiteFacts, WorkloadFacts, World

__all__ = [
    "FACTS",
    "PDP",
    "AgentFacts",
    "Allow",
    "CompiledPolicy",
    "ContractFacts",
    "Deny",
    "Finding",
    "HumanFacts",
    "PolicySet",
    "PolicyTextError",
    "Reason",
    "Request",
    "SiteFacts",
    "WorkloadFacts",
    "World",
    "allowed_sites",
    "compile_anywhere",
    "compile_for_site",
    "compile_sites",
]
