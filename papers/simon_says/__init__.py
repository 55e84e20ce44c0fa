"""Simon Says: Evaluating and Mitigating Bias in Pruned Neural Networks with Knowledge Distillation (Blakeney et al., 2021)."""
