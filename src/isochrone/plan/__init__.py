"""The choices and their prices.

plan        the plan as a value that travels: importable without the optimiser
verdicts    what policy says, as the planner takes it
planner     make_plan: a fabric and what is known about it in, a plan out
candidates  who could serve whom, and what bars them
placement   replicas per site and workload, by integer programming
problem     the routing problem as arrays; routing solves it exactly, with prices
qualified   the load at which an objective still holds
rungs       shares, fallbacks and refusals per deadline
explain     why there, why not there, what would change it
highs       the door to HiGHS
"""
