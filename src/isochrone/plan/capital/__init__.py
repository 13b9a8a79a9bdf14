"""The capital planner: what should stand where, what it is worth, and what is stranded. See
docs/concepts/capital.md."""
