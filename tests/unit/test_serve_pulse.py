"""Does a site's report go out at once on news, and otherwise when it is due?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from isochrone.serve.pulse import Pulse


@pytest.mark.parametrize(
    ("act", "is_busy", "period_s", "ends"),
    [
        (Pulse.news, False, 60.0, True),
        (Pulse.news, True, 60.0, True),
        (Pulse.stir, True, 60.0, False),  # when it is due, not at once
        (Pulse.stir, False, 0.01, True),
        (lambda pulse: None, True, 0.01, True),
        (lambda pulse: None, False, 0.01, True),
    ],
)
def test_what_ends_a_rest(act: Callable[[Pulse], None], is_busy: bool, period_s: float, ends: bool) -> None:
    async def main() -> bool:
        pulse = Pulse(period_s)
        act(pulse)
        resting = asyncio.create_task(pulse.rest(is_busy=is_busy))
        done, _ = await asyncio.wait([resting], timeout=5.0 if ends else 0.05)
        resting.cancel()
        return bool(done)

    assert asyncio.run(main()) == ends
