"""SNIP: Single-shot Network Pruning based on Connection Sensitivity (Lee, Ajanthan and Torr, ICLR 2019)."""
