"""JSON Schemas of the API's documents."""
