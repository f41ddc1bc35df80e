"""Judging: rules and scores in, a verdict with its reasons out; pure, and without the engines that answered."""
