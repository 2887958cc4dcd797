"""Command-line scripts: flags and a spec file -> one call into the rooms above."""
