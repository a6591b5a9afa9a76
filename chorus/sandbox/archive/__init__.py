"""Archives as tasks bring them: tar and zip, read within limits and unpacked."""
