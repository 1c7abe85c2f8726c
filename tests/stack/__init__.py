"""Tests of the stack, on real processes."""
