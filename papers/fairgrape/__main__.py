"""FairGRAPE on your own data: `python -m papers.fairgrape fit --help`."""

from common.experiment.method_cli import method_cli

if __name__ == "__main__":
    method_cli("papers.fairgrape.method.FairGRAPE")
