"""The demo: an embedded fabric and policies, and scenes that show each promise held."""
