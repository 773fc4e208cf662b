"""Compiles kernels of CuTe DSL for tests, once per content of their sources, in a process of its own."""

import fcntl
import hashlib
import importlib.metadata
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

COMPILER = "nvidia-cutlass-dsl"
BUILD = Path(__file__).parents[1] / "build"


def available() -> bool:
    """Whether this Python has the compiler; asks for the package's metadata only, for it must not be imported here."""
    try:
        importlib.metadata.version(COMPILER)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def built(sources: Path, into: str, arch: str, arguments: Callable[[str], list[str]]) -> Path:
    """The folder below build/`into` that `sources`/build.py has filled for `arch`; built when it is not there yet.

    arguments: those of build.py, given the folder.
    """
    folder = BUILD / into / content_hash(sources, arch)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another pytest worker may be building the same
        if not (folder / "complete").exists():
            command = [sys.executable, str(sources / "build.py"), *arguments(str(folder))]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
            (folder / "complete").touch()
    return folder


def content_hash(sources: Path, arch: str) -> str:
    """A name that changes with the sources, the compiler and the architecture."""
    parts = [arch, importlib.metadata.version(COMPILER)]
    parts += [f"{source.relative_to(sources)}\n{source.read_text()}" for source in sorted(sources.rglob("*.py"))]
    return f"{arch}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}"
