"""The papers' tables and figures by name: what each is made of, and what the paper says."""
