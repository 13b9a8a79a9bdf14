"""What several test modules share: real processes, started and ended."""
