"""Cubins of kernels of this source tree, compiled once per content of their sources and plan."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import multiprocessing
import os
import sys
import types
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / "build" / "model"
ARCHITECTURE = "sm_100a"

if "jax_fa4" not in sys.modules:
    # Kernels need nothing of the package, which would import its extension and JAX.
    package = types.ModuleType("jax_fa4")
    package.__path__ = [str(ROOT / "jax_fa4")]
    sys.modules["jax_fa4"] = package


def compiled(plans: Sequence[Any], jobs: int) -> list[Path]:
    """The cubins of the plans; several seconds for each that is new."""
    CACHE.mkdir(parents=True, exist_ok=True)
    files = [CACHE / f"{plan.name}-{content_hash(plan)}.cubin" for plan in plans]
    missing = [(plan, file) for plan, file in zip(plans, files, strict=True) if not file.exists()]
    if missing:
        # Set before the compiler is imported, which happens in processes of its own.
        os.environ["CUTE_DSL_ARCH"] = ARCHITECTURE
        with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork")) as processes:
            list(processes.map(compile_plan, *zip(*missing, strict=True)))
    return files


def compile_plan(plan: Any, file: Path) -> None:
    """Compiles one plan into a file, which appears when it is whole."""
    from jax_fa4.kernels.build import trace_forward

    print(f"compiling {plan.name}, polynomial {plan.polynomial}", file=sys.stderr)
    part = file.with_suffix(f".{os.getpid()}")
    part.write_bytes(trace_forward(plan, False).__cubin__)
    part.rename(file)


def content_hash(plan: Any) -> str:
    """A name that changes with the plan, the sources and the compiler."""
    return hashlib.sha256(f"{plan!r}\n{sources()}".encode()).hexdigest()[:16]


@functools.cache
def sources() -> str:
    """All of the kernels' sources, and the compiler's version."""
    files = sorted((ROOT / "jax_fa4" / "kernels").rglob("*.py"))
    version = importlib.metadata.version("nvidia-cutlass-dsl")
    return "\n".join([ARCHITECTURE, version, *(f"{file.name}\n{file.read_text()}" for file in files)])
