"""What a chip is: its native gates, programs, calibration, noise, and where circuits are placed on it."""
