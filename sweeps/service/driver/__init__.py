"""What runs on the driver: a study through Ray Tune."""
