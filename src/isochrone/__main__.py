"""``python -m isochrone``."""

from isochrone.cli.main import main

main()
