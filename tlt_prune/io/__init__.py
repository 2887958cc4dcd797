"""Files, places, console and frameworks."""
