"""Reports: runs read back, compared and shown on one page."""
