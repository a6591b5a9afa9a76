"""The folders and files of a task, its workspace and its artifacts."""
