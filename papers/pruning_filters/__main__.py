"""Filter pruning on your own data: `python -m papers.pruning_filters fit --help`."""

from common.experiment.method_cli import method_cli

if __name__ == "__main__":
    method_cli("papers.pruning_filters.method.FilterPruning")
