"""What is here: cards, drivers, leases and disk, all without torch."""
