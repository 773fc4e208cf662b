"""A readable account of what one warp did, or of what happened to one mbarrier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ._simulator import Kernel
from .launching import run


def follow(
    kernel: Kernel | str | Path,
    *,
    warp: int | None = None,
    mbarrier: int | None = None,
    cta: int = 0,
    cluster: int = 0,
    **launch: Any,
) -> str:
    """Runs a kernel; returns a line for each statement of a warp, or each event of the mbarrier at a shared offset.

    cta is the rank in the cluster of that number; `launch` are arguments of `run`. Reports do not raise: they end the
    text.
    """
    if (warp is None) == (mbarrier is None):
        raise ValueError("follow takes one of warp= and mbarrier=")
    traced = {"trace_warp": warp} if mbarrier is None else {"trace_mbarrier": mbarrier, "trace_warp": -1}
    result = run(kernel, **{**launch, **traced, "trace_cluster": cluster, "trace_cta": cta, "raise_on_report": False})
    return "\n".join([*result.trace, *(report.text for report in result.reports)])
