"""The only door to the C core: lifetimes, status to exception, the wait loop."""
