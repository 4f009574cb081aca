"""MLflow: what is written, what is read, and the local server."""
