"""What a lesson imports."""
