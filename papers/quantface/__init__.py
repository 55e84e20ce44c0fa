"""QuantFace (Boutros et al., ICPR 2022)."""
