"""MaskInv on your own data: `python -m papers.mask_invariant_kd fit --help`."""

from common.experiment.method_cli import method_cli

if __name__ == "__main__":
    method_cli("papers.mask_invariant_kd.method.MaskInv")
