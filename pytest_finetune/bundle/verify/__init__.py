"""Every check of a bundle, by itself: no store, no network, no torch."""
