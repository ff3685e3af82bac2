"""Queries of several scales to one set of tubes (report, section 3.3; docs/fusion.md)."""
