"""HTTP over a finished release. Holds routes, no formula, and does not know Ray."""
