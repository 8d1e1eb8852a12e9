"""Fair comparison: spec -> plan -> runs -> rows -> statistics. What it shows is written by `qpeft.reports`."""
