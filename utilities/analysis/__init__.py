"""The companion analyses, one per file. Each takes a model and a loader, and returns a frozen result."""
