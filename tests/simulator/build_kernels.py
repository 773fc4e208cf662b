"""Compiles the simulator's test kernels, once per content of their sources, in a process of their own."""

import fcntl
import hashlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).parent / "kernels"
BUILT = Path(__file__).parents[2] / "build" / "simulator_kernels"


def built(arch: str) -> Path:
    """The folder with NAME.ptx and NAME.json of every kernel for `arch`, built when it is not there yet."""
    folder = BUILT / content_hash(arch)
    BUILT.mkdir(parents=True, exist_ok=True)
    with open(BUILT / f"{folder.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another pytest worker may be building the same
        if not (folder / "complete").exists():
            command = [sys.executable, str(SOURCES / "build.py"), arch, str(folder)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
            (folder / "complete").touch()
    return folder


def available() -> bool:
    """Whether this Python has the compiler; asks for the package's metadata only, for it must not be imported here."""
    try:
        importlib.metadata.version("nvidia-cutlass-dsl")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def content_hash(arch: str) -> str:
    parts = [arch, importlib.metadata.version("nvidia-cutlass-dsl")]
    parts += [f"{source.name}\n{source.read_text()}" for source in sorted(SOURCES.glob("*.py"))]
    return f"{arch}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}"
