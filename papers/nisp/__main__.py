"""NISP on your own data: `python -m papers.nisp fit --help`."""

from common.experiment.method_cli import method_cli

if __name__ == "__main__":
    method_cli("papers.nisp.method.NISP")
