"""PocketNet (Boutros et al., IEEE Access 2022)."""
