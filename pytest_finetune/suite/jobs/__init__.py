"""Steps that run as jobs elsewhere: what is sent, how it is waited for, and what runs there."""
