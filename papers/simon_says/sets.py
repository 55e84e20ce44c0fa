"""What Simon Says' numbers are measured on; apart, so that a claim's words change no run."""

TEST, ACROSS = "test", "across arms"
