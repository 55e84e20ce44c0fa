"""Every parser that reads a file which this suite did not write in the same breath."""

from __future__ import annotations

import fuzz_targets_attributes
import fuzz_targets_classes
import fuzz_targets_images
import fuzz_targets_lists
import fuzz_targets_results
import fuzz_targets_weights

MODULES = (
    fuzz_targets_lists,
    fuzz_targets_attributes,
    fuzz_targets_images,
    fuzz_targets_classes,
    fuzz_targets_weights,
    fuzz_targets_results,
)
TARGETS = {target.name: target for module in MODULES for target in module.TARGETS}
