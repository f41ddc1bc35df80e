"""The end of a session: the record, the page, what CI is told, and a bundle when it was earned."""
