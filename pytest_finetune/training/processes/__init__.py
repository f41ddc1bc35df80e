"""One training in several processes, under ``accelerate launch``."""
