"""`chorus keys`: roles, the recovery secret and backups."""
