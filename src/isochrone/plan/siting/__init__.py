"""Siting problems with known answers: facility location and p-median, solved to proven optimality.

This is how the planner's correctness is shown: the same engine (HiGHS) and the same bounding idea are run on
problems whose optima have been published for decades. See `solve` for the method and `check` for the independent
verification of an answer.
"""

from isochrone.plan.siting.formats import parse_orlib, parse_pmedian, shortest_paths
from isochrone.plan.siting.problem import Siting, SitingProblem, check
from isochrone.plan.siting.search import solve

__all__ = ["Siting", "SitingProblem", "check", "parse_orlib", "parse_pmedian", "shortest_paths", "solve"]
