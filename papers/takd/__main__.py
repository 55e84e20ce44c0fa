"""One hop of TAKD on your own data: `python -m papers.takd fit --help`."""

from common.experiment.method_cli import method_cli

if __name__ == "__main__":
    method_cli("papers.takd.method.TAKD")
