"""FairGRAPE: prune so that every demographic group keeps its share of the network's importance (Lin et al., ECCV 2022)."""
