"""Training: a frozen request in, an adapter folder and its figures out."""
