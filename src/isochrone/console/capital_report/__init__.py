"""The capital report: one self-contained HTML page with maps, plots, tables and the assumptions it rests on."""

from isochrone.console.capital_report.page import render_report

__all__ = ["render_report"]
