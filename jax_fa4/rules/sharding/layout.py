"""Who holds what when a call is cut into shards: letters to devices, as NumPy arrays. Knows nothing of JAX or XLA.

A Cut says of one letter into how many shards it is cut and which of them each device holds. A call is cut along
letters alone, so that every array of it, operand or result, follows from them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from jax_fa4.rules.sharding import axes
from jax_fa4.rules.sharding.axes import Call, Letters

Devices = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Cut:
    """Shards of one letter, or of one dimension of an array."""

    shards: int
    held: Devices  # by device: the shard that it holds


Tiling = Sequence[Cut | None]  # by dimension of an array; None is not cut


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a call lies on the devices."""

    devices: int
    cuts: dict[str, Cut]

    def cuts_of(self, letters: Letters) -> list[Cut | None]:
        """The cut of each dimension of an array."""
        return [None if letter is None else self.cuts.get(letter) for letter in letters]

    def assignment(self, letters: Letters) -> Devices:
        """Device ids by (shard of each dimension..., replica), ascending among replicas."""
        cuts = self.cuts_of(letters)
        place = self._place(cuts)
        shards = [1 if cut is None else cut.shards for cut in cuts]
        order = np.argsort(place, kind="stable")
        return order.reshape(*shards, self.devices // math.prod(shards))

    def summands(self, letters: Letters) -> Devices | None:
        """Groups of devices (group, member) whose partial results of an array with these letters add up to it.

        None where each device has the whole sum. Devices that computed the same thing are in different groups.
        """
        computed, result = self._place(list(self.cuts.values())), self._place(self.cuts_of(letters))
        replica = np.zeros_like(computed)
        for place in np.unique(computed):
            same = np.flatnonzero(computed == place)
            replica[same] = np.arange(len(same))
        _, group = np.unique(np.stack([result, replica]), axis=1, return_inverse=True)
        members = np.argsort(group.reshape(-1), kind="stable").reshape(int(group.max()) + 1, -1)
        return members if members.shape[1] > 1 else None

    def _place(self, cuts: Sequence[Cut | None]) -> Devices:
        """One number for the shards that a device holds of all these."""
        place = np.zeros(self.devices, np.int64)
        for cut in cuts:
            if cut is not None:
                place = place * cut.shards + cut.held
        return place


def of_call(call: Call, devices: int, operands: Sequence[Tiling], results: Sequence[Tiling]) -> Layout:
    """The layout that the shardings of a call's arrays ask for; what disagrees with it is to be resharded.

    Query, key and value decide, then what came out of JAX, then bias and mask: a later array may cut a letter that the
    earlier ones left whole, over devices that hold the same so far. Those with fewer axes follow, however they lie.

    Raises:
      ValueError: a length or head_dim is cut, or a number of shards does not divide an extent.
    """
    for position, (letters, tiling) in enumerate(zip(call.operands[: axes.GIVEN], operands, strict=False)):
        for letter, cut in zip(letters, tiling, strict=True):
            if letter in axes.WHOLE and cut is not None:
                raise ValueError(axes.length_error(axes.NAMES[position], letter, cut.shards))
    arrays = (
        *zip(call.operands[:3], operands[:3], strict=True),
        *zip(call.results, results, strict=True),
        *zip(call.operands[axes.GIVEN :], operands[axes.GIVEN :], strict=True),
        *zip(call.operands[3 : axes.GIVEN], operands[3 : axes.GIVEN], strict=True),
    )
    layout = Layout(devices, {})
    for letters, tiling in arrays:
        if len(letters) < call.batch_axes + 2:
            continue
        for letter, cut in zip(letters, tiling, strict=True):
            if cut is not None and letter is not None and letter not in axes.WHOLE:
                layout = _extended(layout, call, letter, cut)
    return layout


def _extended(layout: Layout, call: Call, letter: str, cut: Cut) -> Layout:
    decided = "N" if letter == "K" else letter
    if decided in layout.cuts or not _independent(layout, cut):
        return layout
    extent = call.extents[letter]
    if extent % cut.shards:
        what = {"N": "query heads", "K": "key heads"}.get(letter, "batch elements")
        raise ValueError(
            f"jax_fa4.attention: {extent} {what} are cut into {cut.shards} shards: they must divide evenly"
        )
    if letter not in "NK":
        return Layout(layout.devices, {**layout.cuts, letter: cut})
    query_heads, key_heads = call.extents.get("N", 1), call.extents.get("K", 1)
    shards = axes.key_shards(query_heads, key_heads, cut.shards)
    if shards is None:
        raise ValueError(axes.heads_error(query_heads, key_heads, cut.shards))
    heads = {"N": cut}
    if shards > 1:
        heads["K"] = Cut(shards, cut.held // (cut.shards // shards))
    return Layout(layout.devices, {**layout.cuts, **heads})


def _independent(layout: Layout, cut: Cut) -> bool:
    """Whether each shard of this cut meets each combination of the shards so far, on equally many devices."""
    # The key's heads are cut as the query's are: they are no dimension of their own.
    cuts = [other for letter, other in layout.cuts.items() if letter != "K"]
    combinations = math.prod(other.shards for other in cuts) * cut.shards
    if combinations > layout.devices:
        return False
    count = np.bincount(layout._place(cuts) * cut.shards + cut.held, minlength=combinations)
    return bool(np.all(count == count[0]))
