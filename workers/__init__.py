"""Where the work runs: plain classes, their Ray actors, and the groups and pools of the driver."""
