"""What people read of a record: the terminal, the note, the page, what GitHub shows."""
