"""Several processes: the distributed example against one device, and the end of processes that fail or hang."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import time

import jax
import local_processes
import numpy as np
import pytest

EXAMPLE = pathlib.Path(__file__).parents[1] / "examples" / "distributed_train.py"
# float32 sums in another order, over a few steps: rounding, nowhere near what one gradient counted twice would do.
REORDERED = 1e-5


@pytest.mark.slow
def test_two_processes_train_as_one_device_does(tmp_path: pathlib.Path) -> None:
    """2 processes of 4 devices, batch over 4 and heads over 2 of them; by gloo, as nobody else carries CPU arrays."""
    pytest.importorskip("optax")
    pytest.importorskip("flax")
    import distributed_train

    losses = tmp_path / "losses.json"
    command = [sys.executable, str(EXAMPLE), "--processes", "2", "--quick", "--steps", "4", "--time-limit", "400"]
    run = subprocess.run([*command, "--out", str(losses)], capture_output=True, text=True, timeout=460)
    assert run.returncode == 0, run.stderr
    assert "2 processes, {'data': 4, 'model': 2} of cpu devices" in run.stdout
    found = json.loads(losses.read_text())
    assert found["processes"] == 2 and len(found["losses"]) == 4

    mesh = distributed_train.make_mesh(jax.devices()[:1], 1)
    alone = distributed_train.train(distributed_train.dataclasses.replace(distributed_train.QUICK, steps=4), mesh)
    np.testing.assert_allclose(found["losses"], alone, rtol=REORDERED)
    assert alone[-1] < alone[0]


# Instead of a program of JAX: process 1 does what the test says, process 0 waits for a minute.
SCRIPT = "import sys, time; time.sleep(60) if sys.argv[-1] == '0' else {}"


@pytest.mark.parametrize(
    ("action", "limit", "status"),
    [("sys.exit(3)", 30.0, 3), ("time.sleep(60)", 0.5, 124)],
    ids=["one_fails", "all_hang"],
)
def test_no_process_is_left_behind(action: str, limit: float, status: int) -> None:
    start = time.monotonic()
    assert local_processes.run(["-c", SCRIPT.format(action)], 2, 1, limit) == status
    assert time.monotonic() - start < 30


def test_processes_that_end_well(tmp_path: pathlib.Path) -> None:
    """Each knows its number, how many there are and who coordinates."""
    script = "import os, sys, pathlib; pathlib.Path(sys.argv[1], sys.argv[-1]).write_text(' '.join(sys.argv[2:]))"
    assert local_processes.run(["-c", script, str(tmp_path)], 3, 2, 60.0) == 0
    written = sorted(path.read_text().split() for path in tmp_path.iterdir())
    assert [one[-1] for one in written] == ["0", "1", "2"]
    for one in written:
        assert one[0] == "--coordinator" and one[1].startswith("localhost:") and one[2:4] == ["--process-count", "3"]


def test_devices_that_do_not_fit_the_mesh() -> None:
    pytest.importorskip("optax")
    pytest.importorskip("flax")
    import distributed_train

    with pytest.raises(ValueError, match=r"8 devices cannot be cut into rows of 3 \(--model-axis\)"):
        distributed_train.make_mesh(jax.devices()[:8], 3)
