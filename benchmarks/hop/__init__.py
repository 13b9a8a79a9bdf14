"""What one hop costs: the same tiny upstream behind proxies that govern and proxies that do not. See `__main__`."""
