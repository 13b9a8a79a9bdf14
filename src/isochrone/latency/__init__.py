"""Latency: the physics floor, measured sketches, and one bounded estimate of how long an answer takes.

floor       geodesics and what light in fibre needs for them
sketch      mergeable quantile sketches of what was measured
estimate    RttTable, ServiceTable and the time an answer takes, with its uncertainty and source
reach       the isochrone: what is reachable from a place within a time
"""
