"""Pure rules of the shop: what an order is, what may go wrong, how to undo. No I/O."""
