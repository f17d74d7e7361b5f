"""How many examples a property is tried with.

`make test` draws the same ones in every run, so that what passed once passes again.  `make properties` draws others in
every run, and twenty times as many: what it finds is a fault of the product or of the property.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

ORDINARY = 100
_QUIET = settings(deadline=None, database=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])


def register_profiles() -> None:
    """`--hypothesis-profile=explore` takes the second; how fast the machine is decides nothing in either."""
    settings.register_profile("same", _QUIET, derandomize=True, max_examples=ORDINARY)
    settings.register_profile("explore", _QUIET, derandomize=False, max_examples=20 * ORDINARY)
    settings.load_profile("same")


def scaled(examples: int) -> int:
    """For a property whose examples are dear: as many in `make test`, and its share when there are more."""
    return max(examples * settings.default.max_examples // ORDINARY, 1) if settings.default else examples
