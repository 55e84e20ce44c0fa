"""CoupleFace: Relation Matters for Face Recognition Distillation (Liu et al., ECCV 2022)."""
