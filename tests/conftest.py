"""Hypothesis on a machine that others use too: no deadline, and a slow draw is no failure."""

from hypothesis import HealthCheck, settings

settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")
