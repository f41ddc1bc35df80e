"""The real training step on fake tensors, and what an allocator makes of it. Imports torch."""
