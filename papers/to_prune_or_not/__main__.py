"""Gradual pruning on your own data: `python -m papers.to_prune_or_not fit --help`."""

from common.experiment.method_cli import method_cli

if __name__ == "__main__":
    method_cli("papers.to_prune_or_not.method.GradualPruning")
