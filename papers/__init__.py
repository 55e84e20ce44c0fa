"""One folder a paper; `papers.registry` finds them by their `paper.toml`."""
