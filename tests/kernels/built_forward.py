"""Compiles the forward kernels for tests, once per content of their sources, in processes of their own."""

import fcntl
import hashlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SOURCES = REPOSITORY / "jax_fa4" / "kernels"
BUILT = REPOSITORY / "build" / "kernels"


def built(arch: str) -> Path:
    """The folder with every variant for `arch`, built when it is not there yet."""
    folder = BUILT / content_hash(arch)
    BUILT.mkdir(parents=True, exist_ok=True)
    with open(BUILT / f"{folder.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another pytest worker may be building the same
        if not (folder / "manifest.json").exists():
            command = [sys.executable, str(SOURCES / "build.py"), "--arch", arch, "--out", str(folder), "--line-info"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
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
    parts += [f"{source.relative_to(SOURCES)}\n{source.read_text()}" for source in sorted(SOURCES.rglob("*.py"))]
    return f"{arch}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}"
