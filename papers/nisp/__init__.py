"""NISP: Pruning Networks using Neuron Importance Score Propagation (Yu et al., CVPR 2018)."""
