"""The shop over HTTP, under hostile hands."""
