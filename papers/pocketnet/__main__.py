"""Multi-step distillation on your own data: `python -m papers.pocketnet fit --help`."""

from common.experiment.method_cli import method_cli

if __name__ == "__main__":
    method_cli("papers.pocketnet.method.MultiStepKD")
