"""Isochrone: AI inference in time, in bounds and on the record, over sites of many owners."""

__version__ = "0.1.0"
