"""UCXL: addresses, decision records and their chains (spec/ucxl.md). Pure."""
