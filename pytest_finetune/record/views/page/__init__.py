"""The page of a record and the page of all runs: self-contained HTML, whole without a script."""
