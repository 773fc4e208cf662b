"""Each feature of the call on its own, switched on so that every query still sees the keys that it saw without it."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from cpu_cases import Case

SOFT_CAP = "soft cap"


def features(case: Case) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Static options and arrays by name. What could hide keys hides none, which the kernel cannot know."""
    random = np.random.default_rng(1)

    def normal(*shape: int) -> Any:
        dtype = ml_dtypes.bfloat16 if case.dtype == "bfloat16" else np.float32
        return jnp.asarray(random.standard_normal(shape, np.float32).astype(dtype))

    queries = jnp.full((1,), case.queries, jnp.int32)
    keys = jnp.full((1,), case.keys, jnp.int32)
    segments = {
        "query_segment_ids": jnp.zeros((1, case.queries), jnp.int32),
        "key_value_segment_ids": jnp.zeros((1, case.keys), jnp.int32),
    }
    return {
        SOFT_CAP: ({"logits_soft_cap": 30.0}, {}),
        "sinks": ({}, {"sinks": normal(case.heads)}),
        "ALiBi": ({}, {"alibi_slopes": jnp.asarray(2.0 ** -np.arange(1, case.heads + 1), jnp.float32)}),
        "segments": ({}, segments),
        "lengths": ({}, {"query_seq_lengths": queries, "key_value_seq_lengths": keys}),
        "query offset": ({}, {"query_offset": jnp.int32(0)}),
        "mask": ({}, {"mask": jnp.ones((1, 1, case.queries, case.keys), bool)}),
        "bias": ({}, {"bias": normal(1, 1, case.queries, case.keys)}),
        "bias of each head": ({}, {"bias": normal(1, case.heads, case.queries, case.keys)}),
    }
