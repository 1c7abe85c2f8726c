"""The shop's two stores: the ledger, which is the truth, and the gate in front of it."""
