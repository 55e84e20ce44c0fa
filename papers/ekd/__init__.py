"""EKD: evaluation-oriented knowledge distillation (Huang et al., CVPR 2022)."""
