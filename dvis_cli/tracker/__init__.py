"""Queries to tracks: Hungarian matching and the referring tracker (report, section 2.2)."""
