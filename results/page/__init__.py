"""Draw the report: figures, tables and scripts of one HTML file, and its server."""
