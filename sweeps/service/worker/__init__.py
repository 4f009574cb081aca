"""What runs on a worker: torch and Ray."""
