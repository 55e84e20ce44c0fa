"""EKD on your own data: `python -m papers.ekd fit --help`."""

from common.experiment.method_cli import method_cli

if __name__ == "__main__":
    method_cli("papers.ekd.method.EKD")
