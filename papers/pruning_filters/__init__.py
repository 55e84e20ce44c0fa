"""Pruning Filters for Efficient ConvNets (Li, Kadav, Durdanovic, Samet and Graf, ICLR 2017)."""
