"""The stages of the course: each one page, each a strategy to buy."""
