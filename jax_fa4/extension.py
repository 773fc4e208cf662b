"""The compiled extension, or words about where it went."""

from __future__ import annotations

import pathlib

try:
    from jax_fa4._ffi import cpu_instruction_sets, register_variants, registrations
except ImportError as error:
    raise ImportError(
        f"{pathlib.Path(__file__).parent} has no compiled extension. If this is the source folder, Python found it "
        "before the installed package: install with `pip install .` or `make install`, and run Python from another "
        "folder (or with -P, which keeps the current folder out of the search)"
    ) from error

__all__ = ["cpu_instruction_sets", "register_variants", "registrations"]
