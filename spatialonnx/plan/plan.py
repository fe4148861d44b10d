"""Plans: the masks of a whole network, their key and their text form."""

from __future__ import annotations

import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spatialonnx.errors import PlanError
from spatialonnx.files import sha256_bytes
from spatialonnx.plan.masks import SiteMask, make_mask

PlanLike = Mapping[str, SiteMask]
"""Masks by site: a Plan, or any mapping. Sites that it does not name are off."""

_LARGEST_MASK = 1 << 26
"""Bytes of a mask or threshold beyond which a text is damaged."""


class Plan(PlanLike):
    """Masks by site; an immutable mapping. Sites that it does not name are off."""

    __slots__ = ("_masks",)

    def __init__(self, masks: PlanLike | Iterable[tuple[str, SiteMask]] = ()) -> None:
        """Copies the masks."""
        self._masks = dict(masks)

    def __getitem__(self, site: str) -> SiteMask:
        """The mask of a site."""
        return self._masks[site]

    def __iter__(self) -> Iterator[str]:
        """The names of the sites."""
        return iter(self._masks)

    def __len__(self) -> int:
        """Number of sites named."""
        return len(self._masks)

    def __hash__(self) -> int:
        """Hashes what ``==`` compares: sites and masks, in any order."""
        return hash(frozenset(self._masks.items()))

    def __repr__(self) -> str:
        """The sites and their masks."""
        return f"Plan({self._masks!r})"

    @property
    def predicting(self) -> Plan:
        """The same plan without the sites whose mask is full."""
        return Plan({site: mask for site, mask in self.items() if not mask.is_full})

    @property
    def key(self) -> str:
        """32 hexadecimal digits; see ``plan_key``."""
        return plan_key(self)

    def to_text(self) -> str:
        """JSON; see ``plan_to_text``."""
        return plan_to_text(self)

    @classmethod
    def from_text(cls, text: str) -> Plan:
        """Reads what ``to_text`` wrote.

        Raises:
            PlanError: The text is something else, or a mask in it is not allowed.
        """
        return plan_from_text(text)


def plan_key(plan: PlanLike) -> str:
    """Key of a plan: equal for equal masks, full sites left out."""
    parts = []
    for site in sorted(plan):
        mask = plan[site]
        if mask.is_full:
            continue
        shape = ",".join(map(str, mask.patterns.shape))
        parts += [site.encode(), f"{mask.patch_size}:{shape}".encode(), mask.patterns.tobytes()]
        if mask.threshold is not None:
            parts += [b"threshold", mask.threshold.tobytes()]
    return sha256_bytes(*parts)[:32]


def plan_to_text(plan: PlanLike) -> str:
    """Writes a plan as JSON, arrays compressed; full sites are left out.

    A site is ``[patch size, shape of the patterns, patterns]``, with a threshold as fourth item
    where it has one.
    """
    sites: dict[str, list[Any]] = {}
    for site, mask in plan.items():
        if mask.is_full:
            continue
        sites[site] = [mask.patch_size, list(mask.patterns.shape), _pack(mask.patterns, "<u2")]
        if mask.threshold is not None:
            sites[site].append(_pack(mask.threshold, "<f4"))
    return json.dumps(sites)


def plan_from_text(text: str) -> Plan:
    """Reads what ``plan_to_text`` wrote.

    Raises:
        PlanError: The text is something else, or a mask in it is not allowed.
    """
    try:
        return Plan({site: _read_site(*entry) for site, entry in json.loads(text).items()})
    except PlanError:
        raise
    except Exception as error:  # whatever a damaged text makes json, base64, zlib or numpy raise
        raise PlanError(f"the text is not a plan: {error}") from None


def _read_site(patch_size: int, shape: list[int], data: str, threshold: str = "") -> SiteMask:
    mask = make_mask(int(patch_size), _unpack(data, "<u2").reshape(shape))
    if not threshold:
        return mask
    return SiteMask(mask.patch_size, mask.patterns, _unpack(threshold, "<f4"))


def _pack(array: NDArray[Any], dtype: str) -> str:
    return b64encode(zlib.compress(array.astype(dtype).tobytes())).decode()


def _unpack(data: str, dtype: str) -> NDArray[Any]:
    raw = zlib.decompressobj().decompress(b64decode(data), _LARGEST_MASK)
    return np.frombuffer(raw, dtype)
