"""The test suite; run by trial on the asyncio reactor (`scripts/test`)."""

import hypothesis
from twisted.internet import reactor as _reactor

# How long a machine takes is nothing that a test of logic may fail for (CONTRIBUTING.md).
hypothesis.settings.register_profile("chorus", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("chorus")


def _mend_trial() -> None:
    """Trial's `-j` workers fire the reactor's shutdown after every test, which stops the asyncio loop while it is not
    running; asyncio keeps that wish for the next run, and the next test that needs the reactor is aborted."""
    loop = getattr(_reactor, "_asyncioEventloop", None)
    if loop is None:
        return
    stop = loop.stop

    def stop_if_running() -> None:
        if loop.is_running():
            stop()

    loop.stop = stop_if_running


_mend_trial()
