"""What pytest collects and runs as rules: each is called for every held-out row and every arm."""
