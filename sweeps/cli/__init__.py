"""The `laresa` command: one file a verb."""
