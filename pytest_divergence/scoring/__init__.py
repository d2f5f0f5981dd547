"""All that measures: divergences, the scorer, calibration and bounds."""
