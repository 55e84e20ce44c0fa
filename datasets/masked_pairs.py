"""Verification pairs of which none, one or both images wear a mask.

Source: the protocols of MFRC-21 (F. Boutros et al., IJCB 2021) with synthetic masks, as M. Huber et al. (FG 2021) test them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from datasets.face_masks import FaceMasks, Look
from datasets.pairs import PairSet

PROTOCOLS = {"clean": "", "one_masked": "_one_masked", "both_masked": "_both_masked"}
"""Unmasked-unmasked, masked-unmasked and masked-masked, and what they add to the name of a pair set."""
MASKED_PAIRS = ("second", "official")
COLOUR_KEY = 10_685  # of the colours of test images


class WithMasks:
    """N images followed by their N masked copies, drawn when a slice is read: an `ImageSequence` of 2N.

    Args:
        images: uint8 [N, 3, H, W], a tensor or an `ImageSequence`. masks: draws. look: of the N masks, the same at every reading.
    """

    def __init__(self, images: Any, masks: FaceMasks, look: Look) -> None:
        self.images, self.masks, self.look = images, masks, look

    def __len__(self) -> int:
        return 2 * len(self.images)

    def __getitem__(self, rows: slice) -> torch.Tensor:
        """Images of consecutive places, uint8 [B, 3, H, W]."""
        half = len(self.images)
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise ValueError(f"Masked images are read in order; a step of {step} was asked for.")
        clean = slice(min(start, half), min(stop, half))
        behind = slice(max(start - half, 0), max(stop - half, 0))
        parts = [torch.as_tensor(self.images[clean])] if clean.stop > clean.start else []
        if behind.stop > behind.start:
            parts.append(self.masks.draw(torch.as_tensor(self.images[behind]), self.look[behind]))
        return torch.cat(parts) if parts else torch.as_tensor(self.images[:0])


def under_protocol(pairs: PairSet, images: WithMasks, protocol: str, masked_pairs: str) -> PairSet:
    """A pair set with masks on none, one or both of every pair's images.

    Args:
        pairs: over the images that `images` repeats with masks. protocol: a key of `PROTOCOLS`.
        masked_pairs: of "one_masked": "second" masks the second image of every pair. "official" masks what the official script
            masks, the second half of the list of images: both of every pair of the second half, and none before.
    """
    first, second, behind = pairs.first, pairs.second, len(images) // 2
    if protocol == "both_masked":
        first, second = first + behind, second + behind
    elif protocol == "one_masked" and masked_pairs == "official":
        place = np.arange(len(pairs))  # of a pair, whose images stand at 2 place and 2 place + 1 of the list
        first = first + behind * (2 * place >= len(pairs))
        second = second + behind * (2 * place + 1 >= len(pairs))
    elif protocol == "one_masked":
        second = second + behind
    subject = np.concatenate([pairs.subject, pairs.subject])
    return replace(
        pairs, name=pairs.name + PROTOCOLS[protocol], images=images, first=first, second=second, subject=subject
    )
