"""Launches on a driver, noted by watching_driver.cc, which stands before it."""

from __future__ import annotations

import ctypes
import dataclasses
from pathlib import Path

import gpu_call


@dataclasses.dataclass(frozen=True)
class Launch:
    """One launch, into a graph if the stream was being captured."""

    kernel: str
    captured: bool


class Watch:
    """A driver, seen through."""

    def __init__(self, driver: Path) -> None:
        source, folder = Path(__file__).with_name("watching_driver.cc"), f"-Wl,-rpath,{driver.parent}"
        self.path = gpu_call.compiled(str(source), f'-DWATCHED="{driver}"', libraries=(driver, folder))
        self.library = ctypes.CDLL(str(self.path))

    def reset(self) -> None:
        """Forgets what was launched."""
        self.library.watch_reset()

    def launches(self) -> list[Launch]:
        """All since the reset."""
        name, found = ctypes.create_string_buffer(256), []
        for i in range(self.library.watch_count()):
            captured = bool(self.library.watch_launch(i, name, len(name)))
            found.append(Launch(name.value.decode(), captured))
        return found
