"""Pruning: masks, selections, scores, schedules, rewinding, and real channel removal."""

from common.pruning.channel_graph import ChannelGraph, ChannelGraphError, ChannelGroup
from common.pruning.channels import (
    choose_channels,
    compose_kept,
    kept_channels,
    mask_channels,
    remove_channels,
    removed_channels,
)
from common.pruning.filters import CRITERIA, Criterion, Evidence, filter_norms, score_filters, taylor_form
from common.pruning.masks import LayerCount, Masks
from common.pruning.prunable import prunable_weights
from common.pruning.rewinding import KeptState, forget, redraw
from common.pruning.schedules import GradualSchedule, geometric_rounds, linear_rounds, rounds_to_reach
from common.pruning.scores import (
    connection_sensitivity,
    magnitude,
    normalized,
    random_scores,
    signed_snip,
    snip,
    taylor,
)
from common.pruning.selection import (
    EmptiedLayerWarning,
    histogram_threshold,
    keep_count,
    keep_largest,
    removed_indices,
    select_globally,
    select_per_layer,
    shuffle_within_layers,
)
from common.pruning.structure import accept_pruned, load_pruned, save_pruned

__all__ = [
    "CRITERIA",
    "ChannelGraph",
    "ChannelGraphError",
    "ChannelGroup",
    "Criterion",
    "EmptiedLayerWarning",
    "Evidence",
    "GradualSchedule",
    "KeptState",
    "LayerCount",
    "Masks",
    "accept_pruned",
    "choose_channels",
    "compose_kept",
    "connection_sensitivity",
    "filter_norms",
    "forget",
    "geometric_rounds",
    "histogram_threshold",
    "keep_count",
    "keep_largest",
    "kept_channels",
    "linear_rounds",
    "load_pruned",
    "magnitude",
    "mask_channels",
    "normalized",
    "prunable_weights",
    "random_scores",
    "redraw",
    "remove_channels",
    "removed_channels",
    "removed_indices",
    "rounds_to_reach",
    "save_pruned",
    "score_filters",
    "select_globally",
    "select_per_layer",
    "shuffle_within_layers",
    "signed_snip",
    "snip",
    "taylor",
    "taylor_form",
]
