"""What jax.export must be told about our custom calls."""

from __future__ import annotations

import jax.export

from jax_fa4 import calls

# For jax.export.export(..., disabled_checks=EXPORT_SAFETY_CHECKS): JAX keeps no list of calls of other libraries. Their
# contract carries a version (calls.VERSION), and a library that is too old for an artefact says so.
EXPORT_SAFETY_CHECKS = tuple(
    jax.export.DisabledSafetyCheck.custom_call(target)
    for targets in calls.TARGETS.values()
    for target in targets.values()
)
