"""Quantizers, calibration, fake-quant layers, and bit-packed storage."""

from common.quantization.affine import code_bounds, dequantize, fake_quantize, quantize
from common.quantization.layers import calibrating, quantize_uniform
from common.quantization.observers import (
    RangesNotObservedError,
    freeze_ranges,
    frozen_ranges,
    require_observed_ranges,
    set_tracking,
    unfreeze_ranges,
)
from common.quantization.quantize_network import quantize_network
from common.quantization.schedule import RangeSchedule
from common.quantization.storage import load_packed, packed_bytes, save_packed

__all__ = [
    "RangeSchedule",
    "RangesNotObservedError",
    "calibrating",
    "code_bounds",
    "dequantize",
    "fake_quantize",
    "freeze_ranges",
    "frozen_ranges",
    "load_packed",
    "packed_bytes",
    "quantize",
    "quantize_network",
    "quantize_uniform",
    "require_observed_ranges",
    "save_packed",
    "set_tracking",
    "unfreeze_ranges",
]
