"""Distillation of class probabilities on your own data: `python -m papers.hinton_kd fit --help`."""

from common.experiment.method_cli import method_cli

if __name__ == "__main__":
    method_cli("papers.hinton_kd.method.HintonKD")
