"""What a round trip is taken to be where nothing is measured: a line for each continent, with its error.

Each line is access + stretch x floor through the medians of a day of measured round trips between servers of that
continent, by quantile regression (`geography.fit_rtt`); its spread is the relative error that 68 % of pairs with a
server the fit never saw stay within. `benchmarks/latency.py` fits them anew and prints the errors beside these.
Source of the measurements: WonderNetwork, a day of pings between 246 servers, 19-20 July 2020.
"""

from __future__ import annotations

from collections.abc import Mapping

from isochrone.latency.path import ANY_PATH, Path
from isochrone.model.fabric import Fabric

__all__ = ["PATHS", "continent_of", "paths_of"]

PATHS: Mapping[str, Path] = {
    "AF": Path(stretch=1.74, access_s=0.0932, spread=0.40),
    "AS": Path(stretch=3.00, access_s=0.0465, spread=0.48),
    "EU": Path(stretch=1.89, access_s=0.0116, spread=0.30),
    "NA": Path(stretch=1.64, access_s=0.0116, spread=0.27),
    "OC": Path(stretch=1.49, access_s=0.0062, spread=0.31),
    "SA": Path(stretch=2.52, access_s=0.0512, spread=0.50),
}

# Continents of ISO 3166-1 alpha-2 codes, as GeoNames assigns them.
_COUNTRIES = {
    "AF": "AO BF BI BJ BW CD CF CG CI CM CV DJ DZ EG EH ER ET GA GH GM GN GQ GW KE KM LR LS LY MA MG ML MR MU MW MZ NA "
    "NE NG RE RW SC SD SH SL SN SO SS ST SZ TD TG TN TZ UG YT ZA ZM ZW",
    "AS": "AE AF AM AZ BD BH BN BT CC CN CX CY GE HK ID IL IN IO IQ IR JO JP KG KH KP KR KW KZ LA LB LK MM MN MO MV MY "
    "NP OM PH PK PS QA SA SG SY TH TJ TM TR TW UZ VN YE",
    "EU": "AD AL AT AX BA BE BG BY CH CZ DE DK EE ES FI FO FR GB GG GI GR HR HU IE IM IS IT JE LI LT LU LV MC MD ME MK "
    "MT NL NO PL PT RO RS RU SE SI SJ SK SM UA VA XK",
    "NA": "AG AI AW BB BL BM BQ BS BZ CA CR CU CW DM DO GD GL GP GT HN HT JM KN KY LC MF MQ MS MX NI PA PM PR SV SX TC "
    "TT US VC VG VI",
    "OC": "AS AU CK FJ FM GU KI MH MP NC NF NR NU NZ PF PG PN PW SB TK TL TO TV VU WF WS",
    "SA": "AR BO BR CL CO EC FK GF GS GY PE PY SR UY VE",
}
_CONTINENT = {country: continent for continent, codes in _COUNTRIES.items() for country in codes.split()}


def continent_of(country: str) -> str | None:
    """AF, AS, EU, NA, OC or SA of an ISO 3166-1 alpha-2 code; None for codes of none of them."""
    return _CONTINENT.get(country)


def paths_of(fabric: Fabric) -> dict[str, Path]:
    """The path model of each site by its jurisdiction; `ANY_PATH` where that is no country.

    Where distances are emulated they are known: the stretch emulated, without any error.
    """
    if fabric.emulate is not None:
        return dict.fromkeys(fabric.sites, Path(stretch=fabric.emulate.stretch, spread=0.0))
    found = ((name, continent_of(site.jurisdiction)) for name, site in fabric.sites.items())
    return {name: PATHS[continent] if continent else ANY_PATH for name, continent in found}
