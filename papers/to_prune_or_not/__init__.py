"""To prune, or not to prune: exploring the efficacy of pruning for model compression (Zhu and Gupta, 2017)."""
