"""Starts the processes of a distributed program on this machine, each with a few devices of the CPU, and waits."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return int(one.getsockname()[1])


def run(script: list[str], count: int, devices: int, time_limit: float) -> int:
    """Runs `python *script --coordinator ... --process-count ... --process-id ...` `count` times side by side.

    Args:
      script: path and arguments of the script.
      count: how many processes.
      devices: CPU devices of each.
      time_limit: seconds after which all are ended.

    Returns:
      The exit status of the first that failed, which ends the others, 124 after the time limit, else 0.
    """
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    shared = ["--coordinator", f"localhost:{free_port()}", "--process-count", str(count)]
    commands = [[sys.executable, *script, *shared, "--process-id", str(index)] for index in range(count)]
    deadline = time.monotonic() + time_limit
    running = [subprocess.Popen(command, env=environment) for command in commands]
    try:
        while True:
            statuses = [process.poll() for process in running]
            failed = [status for status in statuses if status]
            if failed or None not in statuses:
                return failed[0] if failed else 0
            if time.monotonic() > deadline:
                print(f"not done after {time_limit:.0f} s: ended", file=sys.stderr)
                return 124
            time.sleep(0.1)
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
            process.wait()
