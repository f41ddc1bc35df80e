"""A store shared with other machines: behind a URL, or in a folder that is only read."""
