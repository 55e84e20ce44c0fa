"""`python -m datasets.generated --sheet FILE.png`: draw a contact sheet of generated faces."""

from __future__ import annotations

import argparse
from pathlib import Path

from datasets.generated.nuisance import DOMAINS


def main() -> None:
    """Parse the command line and write the sheet."""
    parser = argparse.ArgumentParser(
        prog="python -m datasets.generated", description="Contact sheet of generated faces."
    )
    parser.add_argument("--sheet", type=Path, required=True, metavar="FILE.png", help="file to write")
    parser.add_argument("--size", type=int, default=64, help="side of one picture, pixels (default 64)")
    parser.add_argument("--domain", choices=sorted(DOMAINS), default="original")
    parser.add_argument("--people", type=int, default=8, help="persons a group (default 8)")
    parser.add_argument("--pictures", type=int, default=8, help="pictures a person (default 8)")
    parser.add_argument("--data-seed", type=int, default=2022)
    options = parser.parse_args()
    from datasets.generated.sheet import sheet

    sheet(options.sheet, options.size, options.domain, options.people, options.pictures, options.data_seed)


if __name__ == "__main__":
    main()
