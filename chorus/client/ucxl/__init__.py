"""`chorus ucxl`: decisions."""
