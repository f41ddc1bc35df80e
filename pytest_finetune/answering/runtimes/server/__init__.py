"""An OpenAI-compatible server as a runtime: started here, or reached at a URL."""
