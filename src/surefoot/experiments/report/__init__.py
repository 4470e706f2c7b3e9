"""The report: what runs and comparisons show, as one HTML page with nothing behind it, and files
beside."""
