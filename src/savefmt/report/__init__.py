"""All that an image tells, gathered for one page."""
