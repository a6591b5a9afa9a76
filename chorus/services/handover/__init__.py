"""Tasks that another member schedules."""
