"""The lab's topology as plain processes: started in seconds, without Docker, and surely ended."""
