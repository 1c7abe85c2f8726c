"""What keeps the shop well while it runs: measures and repairs."""
