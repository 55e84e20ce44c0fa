"""Knowledge distillation: losses as plain functions, the frozen teacher, feature taps, and the setting that papers share."""
