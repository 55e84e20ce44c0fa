"""Group metrics with the counts and the uncertainty behind them: the one place where Fairpress asks whom it hurts."""
