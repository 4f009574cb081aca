"""A sweep's files: in a folder that all hosts share, or in a bucket."""
