"""Improved Knowledge Distillation via Teacher Assistant (Mirzadeh et al., AAAI 2020)."""
