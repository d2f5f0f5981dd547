"""Plain values and files: settings, cases, suites, reports, errors. Knows no model, no pytest."""
