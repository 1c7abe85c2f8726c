"""Puts load on the shop and measures it."""
