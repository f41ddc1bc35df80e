"""Answering: the prompts of every arm, and the engines that answer them."""
