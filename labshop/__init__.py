"""A teaching lab: a Black-Friday sale on real Redis processes, solved in four stages."""
