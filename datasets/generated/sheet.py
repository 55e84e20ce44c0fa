"""A contact sheet: rows are persons, columns are pictures of them, one block a group."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from datasets.generated.faces import RANGE
from datasets.generated.identity import GROUPS
from datasets.generated.nuisance import DOMAINS
from datasets.generated.render import Photo, render


def sheet(path: Path, size: int, domain: str, people: int, pictures: int, data_seed: int) -> None:
    """Write a PNG of `people` persons a group with `pictures` pictures each; the persons belong to no training or
    test set."""
    blocks = []
    for g in range(len(GROUPS)):
        rows = []
        for i in range(people):
            photos = [Photo(data_seed, 99, g * RANGE + i, g, k) for k in range(pictures)]
            rows.append(torch.cat(list(render(photos, GROUPS, DOMAINS[domain], size)), dim=2))
        blocks.append(F.pad(torch.cat(rows, dim=1), (4, 4, 4, 4), value=255))
    whole = torch.cat([torch.cat(blocks[:2], dim=2), torch.cat(blocks[2:], dim=2)], dim=1)
    Image.fromarray(whole.permute(1, 2, 0).numpy()).save(path)
