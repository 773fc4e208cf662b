"""Fixtures that run PTX, and coverage of the instruction table and of kernels over a whole test session."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .coverage import Coverage

# Every pytest of the environment loads this module; the simulator itself is imported only by a test that needs it.


@pytest.fixture
def run() -> Callable[..., Any]:
    """`jax_fa4_simulator.instruction`: a few lines of PTX on one warp."""
    from . import instruction

    return instruction


@pytest.fixture
def simulate() -> Callable[..., Any]:
    """`jax_fa4_simulator.run`: a kernel on NumPy arrays."""
    from . import run

    return run


class SimulatedDriver:
    """The stand-in in the driver's place, for one test."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.must_launch = True
        self._launched = 0

    def take_launches(self) -> list[dict[str, Any]]:
        """Launches since the last call: kernel, extents, status, words, outcome. The caller judges them."""
        from . import coverage

        launches: list[dict[str, Any]] = self.driver.take_launches()
        self._launched += len(launches)
        for launch in launches:
            if launch["outcome"] is not None:
                coverage.record(launch["outcome"].kernel, launch["outcome"].executed)
        return launches

    def set_options(self, **options: Any) -> None:
        """Schedule, seed, threads and the engine's other options, of this test's launches."""
        self.driver.set_options(options)

    def finish(self) -> None:
        """Fails on what no one took: a launch that was refused or reported something."""
        wrong = []
        for launch in self.take_launches():
            outcome = launch["outcome"]
            wrong += [report.text for report in outcome.reports] if outcome is not None else []
            if launch["status"] != 0:
                wrong.append(f"{launch['kernel']}: CUresult {launch['status']}: {launch['words']}")
        if wrong:
            pytest.fail("\n\n".join(wrong), pytrace=False)
        if self.must_launch and self._launched == 0:
            pytest.fail("nothing was launched on the simulated driver (must_launch = False allows it)", pytrace=False)


@pytest.fixture
def simulated_driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedDriver]:
    """Puts the stand-in behind JAX_FA4_CUDA_DRIVER; the test fails if a launch reports anything or none is made."""
    from . import _simulator, driver_path

    monkeypatch.setenv("JAX_FA4_CUDA_DRIVER", str(driver_path()))
    driver = _simulator.driver
    options = driver.options()
    driver.clear_launches()
    simulated = SimulatedDriver(driver)
    yield simulated
    driver.set_options(options)
    simulated.finish()


def pytest_addoption(parser: pytest.Parser) -> None:
    """--simulator-rows and --simulator-coverage."""
    group = parser.getgroup("simulator")
    group.addoption(
        "--simulator-rows", action="store_true", help="fail if a row of the instruction table was never executed"
    )
    group.addoption(
        "--simulator-coverage", type=Path, metavar="FILE", help="write executed PTX lines by kernel, as JSON"
    )


# Coverage travels as text: what execnet passes between processes must be of few types.
_KEY = "jax_fa4_simulator"


def _of_this_process() -> Coverage | None:
    """Nothing if no test of this process used the simulator."""
    module = sys.modules.get(f"{__package__}.coverage")
    return module.process if module else None


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """A worker's coverage joins the controller's."""
    if _KEY in getattr(node, "workeroutput", {}):
        from . import coverage

        coverage.process.merge(json.loads(node.workeroutput[_KEY]))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Passes coverage on to the controller, or writes and judges it."""
    process = _of_this_process()
    worker_output = getattr(session.config, "workeroutput", None)
    if worker_output is not None:
        if process:
            worker_output[_KEY] = json.dumps(process.as_data())
        return
    file = session.config.getoption("--simulator-coverage")
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(process.as_data()["kernels"] if process else {}))
    if session.config.getoption("--simulator-rows") and session.exitstatus == pytest.ExitCode.OK and _missing():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _missing() -> list[str]:
    from . import coverage

    return coverage.process.rows_never_executed()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Lists rows that were never executed."""
    if config.getoption("--simulator-rows"):
        missing = _missing()
        terminalreporter.section(f"rows of the instruction table never executed: {len(missing)}")
        for syntax in missing:
            terminalreporter.line(f"  {syntax}")
