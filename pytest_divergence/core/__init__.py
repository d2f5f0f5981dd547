"""Plain values: settings, cases, suites, reports, errors, safe text. Knows no model, no pytest."""
