"""Fixtures of the tests of the stand-in driver."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from driver_host import SUCCESS, Driver
from jax_fa4_simulator import _simulator


@pytest.fixture
def raw(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    """The stand-in as a process finds it."""
    monkeypatch.delenv("JAX_FA4_SIMULATOR_DEVICE", raising=False)
    monkeypatch.delenv("JAX_FA4_SIMULATOR_OPTIONS", raising=False)
    driver = Driver()
    _simulator.driver.reset()
    yield driver
    driver.cuInit(0)
    while driver.cuCtxPopCurrent_v2(None) == SUCCESS:
        pass
    _simulator.driver.reset()


@pytest.fixture
def driver(raw: Driver) -> Driver:
    """Initialised, with the primary context current."""
    assert raw.cuInit(0) == SUCCESS
    raw.context()
    return raw
