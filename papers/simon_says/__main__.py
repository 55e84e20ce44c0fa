"""Pruning with distillation on your own data: `python -m papers.simon_says fit --help`."""

from common.experiment.method_cli import method_cli

if __name__ == "__main__":
    method_cli("papers.simon_says.method.SimonSays")
