"""Kernels for the tests of launching: one that shows what it was given, and those of the package."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def echo_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kernel of echo.py, and no other, is what was compiled."""
    import echo

    monkeypatch.setenv("JAX_FA4_KERNELS", str(tmp_path))
    return echo.write(tmp_path)
