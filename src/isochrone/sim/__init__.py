"""The second world: the hub's control loop over simulated sites, networks, traces and faults. One seed gives one run.

trace       arrivals: published traces, spread over places by population and local time
batching    how a model server slows down as it works on more at once
world       sites that queue, slow down and die; `simulate` runs a trace through a strategy
strategies  how others describe theirs, behind one interface
fabric      a world as the fabric document that control code runs
telemetry   what a simulated site reports
controlled  ours: `control.hub.step` fed with those reports, with faults between them
bound       what no strategy passes
report      execution error, cost, times and churn
"""
