"""How examples are looked for, in every property test."""

from hypothesis import HealthCheck, settings

# How long an example takes, or the search for one, says nothing on a machine that is busy.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")
