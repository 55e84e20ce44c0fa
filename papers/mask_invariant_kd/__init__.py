"""MaskInv (Huber et al., FG 2021)."""
