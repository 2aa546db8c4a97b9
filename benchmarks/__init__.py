"""Speed of this package against the plain way, measured in the same run."""
