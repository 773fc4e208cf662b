"""Text that every machine has: the Python standard library's own source, as bytes."""

from __future__ import annotations

import pathlib
import sysconfig
from typing import NamedTuple

import numpy as np

VOCABULARY = 256  # one token per byte
VALIDATION_EVERY = 20  # every 20th file is held out, so that no held-out line was trained on


class Corpus(NamedTuple):
    """Two runs of tokens, uint8 (VOCABULARY values), and the number of files they came from."""

    train: np.ndarray
    validation: np.ndarray
    files: int


def load_corpus(limit: int = 3_000_000) -> Corpus:
    """The top-level modules of the standard library in alphabetical order, up to `limit` bytes, split by file."""
    folder = pathlib.Path(sysconfig.get_paths()["stdlib"])
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    files = size = 0
    for path in sorted(folder.glob("*.py")):
        text = path.read_bytes()
        if size + len(text) > limit:
            break
        parts[files % VALIDATION_EVERY == VALIDATION_EVERY - 1].append(text)
        files += 1
        size += len(text)
    if not parts[1]:
        raise FileNotFoundError(
            f"{folder} holds {files} Python source files, at least {VALIDATION_EVERY} are needed: "
            "run with a Python whose standard library is installed as .py files."
        )
    train, validation = (np.frombuffer(b"".join(part), np.uint8) for part in parts)
    return Corpus(train, validation, files)


def draw_batch(tokens: np.ndarray, rng: np.random.Generator, batch: int, length: int) -> np.ndarray:
    """`batch` windows of `length` tokens and the one that follows, int32 (batch, length + 1)."""
    starts = rng.integers(0, len(tokens) - length, batch)
    return tokens[starts[:, None] + np.arange(length + 1)].astype(np.int32)


def to_text(tokens: np.ndarray) -> str:
    """The text of some tokens; a byte that is no UTF-8 shows as a replacement character."""
    return bytes(tokens.astype(np.uint8)).decode("utf-8", errors="replace")
