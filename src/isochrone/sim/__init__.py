"""The second world: the planner against simulated sites, networks, traces and faults. One seed gives one run.

trace       arrivals: published traces, spread over places by population and local time
batching    how a model server slows down as it works on more at once
world       sites that queue, slow down and die; `simulate` runs a trace through a strategy
strategies  how others describe theirs, behind one interface
planned     ours, with the real planner; and the omniscient bound
report      execution error, cost, times and churn
"""
