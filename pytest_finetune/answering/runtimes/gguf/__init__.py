"""The tuned model as a GGUF file: made, read, and asked through the server that it is shipped with."""
